// Package sched explores the interleavings of a few actors that run the project's real code, built with -tags explore.
package sched
