//go:build premmap_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "premmap"
