//go:build !mkwrite_conversion && !mmap_conversion

package inline

// DefaultName is the strategy of this build: without a tag, the sounder of the two.
const DefaultName = "mmap"
