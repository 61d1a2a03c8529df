//go:build mkwrite_ilock_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "mkwrite_ilock"
