//go:build flip_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "flip"
