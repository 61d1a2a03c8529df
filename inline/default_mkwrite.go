//go:build mkwrite_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "mkwrite"
