//go:build !mkwrite_conversion && !mkwrite_ilock_conversion && !mmap_conversion && !premmap_conversion && !retry_conversion && !writepages_copy_conversion && !writepages_destroy_conversion && !flip_conversion && !flip_folio_conversion

package inline

// DefaultName is the strategy of this build: without a tag, the one that the evidence in docs/strategies.md supports best.
const DefaultName = "flip_folio"
