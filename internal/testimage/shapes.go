package testimage

import "fmt"

// Shape is a named kind of image.
type Shape struct {
	Name    string  // usable as a subtest name
	Options Options // what to give Make
	Inline  bool    // files and directories can live inside their inode
	Journal bool    // the image has a journal
}

// Shapes is the table of images the file system must read and write: every block size with every inode size, and the features that
// change where things lie or how they are protected. All are small (16 MiB) and carry at least 1,024 inodes.
func Shapes() []Shape {
	var all []Shape
	for _, block := range []int{1024, 2048, 4096} {
		for _, inode := range []int{128, 256, 512, 1024} {
			all = append(all, sized(block, inode))
		}
	}
	return append(all, featured()...)
}

// sized is the shape of one block and inode size: an inode of 128 bytes has no room for inline data.
func sized(block, inode int) Shape {
	s := Shape{
		Name:    fmt.Sprintf("b%d-i%d", block, inode),
		Options: Options{BlockSize: block, InodeSize: inode, Inodes: 1024, Features: "inline_data,metadata_csum,64bit,^has_journal"},
		Inline:  true,
	}
	if inode == 128 {
		s.Options.Features = "^inline_data,metadata_csum,64bit,^has_journal"
		s.Inline = false
	}
	return s
}

// featured are the shapes that differ from the default 4096/256 one in a feature.
func featured() []Shape {
	inl := func(name, features string) Shape {
		return Shape{Name: name, Inline: true, Options: Options{BlockSize: 4096, InodeSize: 256, Inodes: 1024,
			Features: "inline_data,^has_journal," + features}}
	}
	all := []Shape{
		inl("csum-seed", "metadata_csum,metadata_csum_seed,64bit"),
		inl("uninit-bg", "^metadata_csum,uninit_bg,64bit"),
		inl("no-csum", "^metadata_csum,^uninit_bg,64bit"),
		inl("no-64bit", "metadata_csum,^64bit"),
		inl("no-64bit-uninit-bg", "^metadata_csum,uninit_bg,^64bit"),
		inl("meta-bg", "metadata_csum,64bit,meta_bg,^resize_inode"),
		inl("sparse-super2", "metadata_csum,64bit,sparse_super2,^resize_inode"),
		inl("no-flex-bg", "metadata_csum,64bit,^flex_bg"),
		inl("no-extent", "metadata_csum,^64bit,^extent"),
		inl("no-dir-index", "metadata_csum,64bit,^dir_index"),
		inl("no-filetype", "metadata_csum,64bit,^filetype"),
		inl("large-dir-ea-inode", "metadata_csum,64bit,large_dir,ea_inode"),
	}
	groups := inl("many-groups", "metadata_csum,64bit")
	groups.Options.BlockSize = 1024
	groups.Options.SizeMiB = 64
	ext2 := Shape{Name: "ext2-like", Options: Options{BlockSize: 1024, InodeSize: 128, Inodes: 1024,
		Features: "none,sparse_super,filetype,resize_inode,ext_attr"}}
	ext3 := Shape{Name: "ext3-like", Journal: true, Options: Options{BlockSize: 4096, InodeSize: 256, Inodes: 1024,
		Features: "none,has_journal,sparse_super,filetype,resize_inode,ext_attr,dir_index,large_file"}}
	journal := Shape{Name: "journal", Inline: true, Journal: true, Options: Options{BlockSize: 4096, InodeSize: 256, Inodes: 1024,
		SizeMiB: 32, Features: "inline_data,has_journal,metadata_csum,64bit"}}
	small := Shape{Name: "journal-b1024", Inline: true, Journal: true, Options: Options{BlockSize: 1024, InodeSize: 256, Inodes: 1024,
		SizeMiB: 32, Features: "inline_data,has_journal,metadata_csum,64bit"}}
	return append(all, groups, ext2, ext3, journal, small)
}
