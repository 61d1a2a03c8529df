//go:build flip_folio_conversion

package inline

// DefaultName is the strategy of this build.
const DefaultName = "flip_folio"
