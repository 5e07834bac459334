//! Layers, provenance and the typed `ResolvedConfig`.
