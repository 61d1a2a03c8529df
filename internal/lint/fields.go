package lint

import (
	"go/ast"
	"regexp"
)

// protection is what a field's comment must say when its struct has a lock.
var protection = regexp.MustCompile(`(?i)\b(guarded by|immutable|atomic|own locks?)\b`)

// LockedFields finds, in structs that have a mutex as a field, the other fields that do not say what protects them: "guarded by mu",
// "immutable", "atomic", or "own lock" for a field that locks itself. A comment above a field speaks for all fields up to the next
// blank line. Fields of sync and sync/atomic types need no word. Test files are left out.
func LockedFields(files []File) []string {
	var found []string
	for _, f := range files {
		if f.Test {
			continue
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && hasLock(s) {
				found = append(found, silentFields(f, spec.Name.Name, s)...)
			}
			return true
		})
	}
	return found
}

// hasLock tells whether a field of the struct is a mutex, held by value.
func hasLock(s *ast.StructType) bool {
	for _, field := range s.Fields.List {
		switch selector(field.Type) {
		case "sync.Mutex", "sync.RWMutex", "lock.Mutex", "lock.RWMutex":
			return true
		}
	}
	return false
}

// silentFields are the fields of the struct that say nothing about their protection.
func silentFields(f File, name string, s *ast.StructType) []string {
	var found []string
	last := 0 // line of the end of the field before
	group := false
	for _, field := range s.Fields.List {
		first := field.Pos()
		if field.Doc != nil {
			first = field.Doc.Pos()
		}
		if f.Fset.Position(first).Line > last+1 {
			group = false
		}
		if says(field.Doc) {
			group = true
		}
		end := field.End()
		if field.Comment != nil {
			end = field.Comment.End()
		}
		last = f.Fset.Position(end).Line
		if group || says(field.Comment) || protectsItself(field.Type) {
			continue
		}
		found = append(found, f.at(field.Pos(), "field %s.%s stands beside a lock and does not say guarded by, immutable or atomic",
			name, fieldName(field)))
	}
	return found
}

// says tells whether the comment names a protection.
func says(c *ast.CommentGroup) bool { return c != nil && protection.MatchString(c.Text()) }

// protectsItself tells whether the type is one of sync or sync/atomic, or the project's lock.
func protectsItself(e ast.Expr) bool {
	switch t := e.(type) {
	case *ast.IndexExpr: // atomic.Pointer[T]
		return protectsItself(t.X)
	case *ast.ArrayType:
		return protectsItself(t.Elt)
	case *ast.SelectorExpr:
		x, ok := t.X.(*ast.Ident)
		return ok && (x.Name == "sync" || x.Name == "atomic" || x.Name == "lock")
	}
	return false
}

// fieldName is the name of the first field of a list, or of the embedded type.
func fieldName(field *ast.Field) string {
	if len(field.Names) > 0 {
		return field.Names[0].Name
	}
	switch t := field.Type.(type) {
	case *ast.Ident:
		return t.Name
	case *ast.SelectorExpr:
		return t.Sel.Name
	}
	return "(embedded)"
}
