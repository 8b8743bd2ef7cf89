//! The one integration test binary of the analyser: what it stands on takes long to link.
