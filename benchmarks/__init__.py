"""Benchmarks: each program measures one part of the project and writes a page or a section in docs/."""
