//! How paths are shown: relative to the working directory where they are below it, with `/` everywhere.

use std::path::{Component, Path, PathBuf};

/// A path relative to a folder, if it is inside.
pub fn relative(path: &str, folder: &Path) -> String {
    let shown = Path::new(path).strip_prefix(folder).unwrap_or(Path::new(path));
    if shown.as_os_str().is_empty() {
        return ".".to_owned();
    }
    let shown = shown.to_string_lossy();
    if cfg!(windows) { shown.replace('\\', "/") } else { shown.into_owned() }
}

/// A path without `.` and `..`, absolute; links are left as they are.
pub fn absolute(path: &Path, folder: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}
