//go:build mmap_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "mmap"
