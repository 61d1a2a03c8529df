//go:build writepages_destroy_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "writepages_destroy"
