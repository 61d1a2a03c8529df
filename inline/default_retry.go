//go:build retry_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "retry"
