//go:build writepages_copy_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "writepages_copy"
