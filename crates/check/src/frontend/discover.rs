//! Which files are checked, where imports begin, and where the installed packages are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;
use ruff_db::system::{OsSystem, SystemPath, SystemPathBuf};
use ruff_python_ast::PythonVersion;
use ty_site_packages::{PythonEnvironment, SysPrefixPathOrigin};

use crate::options::{Note, Options};

/// Folders that hold nothing of the project, whatever `.gitignore` says.
const SKIPPED: &[&str] = &["__pycache__", "node_modules", "site-packages", "venv", "__pypackages__"];
/// Every import is looked for in each root.
const ROOTS: usize = 24;
/// So many files of a folder are looked at to know whether they import it by its name.
const LOOKED_AT: usize = 200;

/// The files to check, and what was in the way.
#[derive(Debug, Default)]
pub struct Files {
    /// Absolute paths, sorted: `.py` and `.ipynb`.
    pub paths: Vec<PathBuf>,
    /// One line each: what is not there, or cannot be read.
    pub notes: Vec<Note>,
}

/// Walks the paths. A file that is named is checked whatever its suffix.
///
/// # Errors
///
/// If a glob of `exclude` is none.
pub fn files(options: &Options) -> anyhow::Result<Files> {
    let mut exclude = globset::GlobSetBuilder::new();
    for glob in &options.exclude {
        exclude.add(globset::Glob::new(glob)?);
        // A folder's name stands for all that is in it.
        exclude.add(globset::Glob::new(&format!("{}/**", glob.trim_end_matches('/')))?);
    }
    let exclude = exclude.build()?;
    let project = std::fs::canonicalize(&options.project).unwrap_or_default();
    let excluded = move |path: &Path| exclude.is_match(path.strip_prefix(&project).unwrap_or(path));
    let mut found = BTreeSet::new();
    let mut notes = vec![];
    let mut note = |path: &Path, text: String| {
        notes.push(Note { path: path.to_str().map(Into::into), line: None, text });
    };
    for path in &options.paths {
        let path = match std::fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) => {
                note(path, format!("{} cannot be read: {error}", path.display()));
                continue;
            }
        };
        if path.is_file() {
            found.insert(path);
            continue;
        }
        // A link is followed only if it is the path itself: so no loop of links is walked, and no file twice.
        let walk = WalkBuilder::new(&path)
            .require_git(false)
            .filter_entry(|entry| entry.depth() == 0 || !is_skipped(entry.path()))
            .build();
        for entry in walk {
            match entry {
                Ok(entry) => {
                    let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
                    let is_python = entry.path().extension().is_some_and(|suffix| suffix == "py" || suffix == "ipynb");
                    if is_file && is_python && !excluded(entry.path()) {
                        found.insert(entry.into_path());
                    }
                }
                Err(error) => note(&path, error.to_string()),
            }
        }
    }
    Ok(Files { paths: found.into_iter().collect(), notes })
}

/// A virtual environment is known by its `pyvenv.cfg`, whatever its name.
fn is_skipped(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    SKIPPED.contains(&name) || (path.is_dir() && path.join("pyvenv.cfg").exists())
}

/// Where the project's imports begin.
#[derive(Debug, Default)]
pub struct Roots {
    /// Where modules are looked for.
    pub imports: Vec<PathBuf>,
    /// Those that give modules their names. A folder of scripts is none: its modules import each other by their bare
    /// names, and are known by their place in the project.
    pub names: Vec<PathBuf>,
}

/// Where the project's imports begin, most specific first: what has a `pyproject.toml` (or its `src`) above its
/// packages, then the paths themselves, then the folders of what is in no package.
pub fn roots(options: &Options, files: &[PathBuf]) -> Roots {
    if !options.roots.is_empty() {
        let roots: Vec<_> = options.roots.iter().filter_map(|root| std::fs::canonicalize(root).ok()).collect();
        return Roots { imports: roots.clone(), names: roots };
    }
    let mut specific = BTreeSet::new();
    let mut others = BTreeSet::new();
    let mut folders = BTreeSet::new();
    for file in files {
        folders.extend(file.parent().map(Path::to_owned));
    }
    for folder in &folders {
        let top = above_namespace(above_packages(folder), files);
        let is_src = top.file_name().is_some_and(|name| name == "src");
        if is_src || is_project(&top) {
            specific.insert(top);
        } else {
            others.insert(top);
        }
    }
    let mut roots = vec![];
    let given = options.paths.iter().filter_map(|path| std::fs::canonicalize(path).ok()).map(|path| {
        let folder = if path.is_file() { path.parent().map(Path::to_owned).unwrap_or(path) } else { path };
        above_namespace(above_packages(&folder), files)
    });
    let mut others: Vec<_> = others.into_iter().collect();
    others.sort_by_key(|path| path.components().count());
    // Of nested ones the inner comes first, so that a module has the name it is imported by.
    let take = |roots: &mut Vec<PathBuf>, root: PathBuf| {
        if !roots.contains(&root) && roots.len() < ROOTS {
            roots.push(root);
        }
    };
    specific.into_iter().rev().chain(given).for_each(|root| take(&mut roots, root));
    let names = roots.clone();
    others.into_iter().for_each(|root| take(&mut roots, root));
    Roots { imports: roots, names }
}

fn is_project(folder: &Path) -> bool {
    ["pyproject.toml", "setup.py", "setup.cfg"].iter().any(|name| folder.join(name).exists())
}

/// The first folder upwards that is no package.
fn above_packages(folder: &Path) -> PathBuf {
    let mut folder = folder;
    while folder.join("__init__.py").exists()
        && let Some(parent) = folder.parent()
    {
        folder = parent;
    }
    folder.to_owned()
}

/// The folder above, where the files of this one import it by its own name: then it is a package without an
/// `__init__.py`.
fn above_namespace(folder: PathBuf, files: &[PathBuf]) -> PathBuf {
    let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { return folder };
    // `from shop.prices import ...`, `import shop.prices`, `from shop import prices`, of a module that is there: a
    // folder may have the name of one of the standard library's.
    let is_here = |module: &str| {
        let module: String = module.chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect();
        !module.is_empty() && (folder.join(format!("{module}.py")).exists() || folder.join(&module).is_dir())
    };
    let imports_it = |line: &str| {
        let line = line.trim_start();
        let rest = line.strip_prefix("from ").or_else(|| line.strip_prefix("import "));
        let Some(rest) = rest.and_then(|rest| rest.trim_start().strip_prefix(name)) else { return false };
        rest.strip_prefix('.').or_else(|| rest.strip_prefix(" import ")).is_some_and(|rest| is_here(rest.trim_start()))
    };
    // A module of this name in the folder itself is what is meant then.
    if folder.join(name).exists() || folder.join(format!("{name}.py")).exists() {
        return folder;
    }
    let below = files.iter().filter(|file| file.starts_with(&folder)).take(LOOKED_AT);
    let found = below.filter_map(|file| std::fs::read_to_string(file).ok()).any(|text| text.lines().any(imports_it));
    match folder.parent() {
        Some(parent) if found => parent.to_owned(),
        _ => folder,
    }
}

/// The interpreter's part of the world.
#[derive(Debug)]
pub struct Environment {
    /// Folders of installed packages.
    pub site_packages: Vec<SystemPathBuf>,
    /// The version that the code runs on.
    pub version: PythonVersion,
    /// What to tell: where it was found, or that there is none.
    pub note: Option<String>,
}

/// The virtual environment: the one asked for, the active one, or `.venv` beside or above the project's roots.
pub fn environment(options: &Options, roots: &[PathBuf]) -> Environment {
    let mut environment = Environment { site_packages: vec![], version: PythonVersion::latest_ty(), note: None };
    for path in &options.site_packages {
        match std::fs::canonicalize(path).map(SystemPathBuf::from_path_buf) {
            Ok(Ok(path)) => environment.site_packages.push(path),
            _ => environment.note = Some(format!("site-packages {} cannot be read", path.display())),
        }
    }
    let system = OsSystem::new(SystemPath::new("/"));
    let found = match &options.python {
        Some(python) => opened(python, &system),
        // Folders that were named are enough; nothing else is looked for.
        None if !options.site_packages.is_empty() => {
            set_version(&mut environment, options);
            return environment;
        }
        None => beside(&options.project, roots, &system),
    };
    let found = found.and_then(|found| {
        if let Some(version) = found.python_version_from_metadata() {
            environment.version = version.version;
        }
        let paths = found.site_packages_paths(&system).map_err(|error| error.to_string())?;
        environment.site_packages.extend(paths.into_vec());
        Ok(())
    });
    if let Err(why) = found {
        environment.note = Some(format!("third-party packages are not followed: {why}"));
    }
    set_version(&mut environment, options);
    environment
}

fn set_version(environment: &mut Environment, options: &Options) {
    if let Some((major, minor)) = options.python_version {
        environment.version = PythonVersion { major, minor };
    }
}

fn opened(python: &Path, system: &OsSystem) -> Result<PythonEnvironment, String> {
    let path = SystemPath::from_std_path(python).ok_or_else(|| format!("{} is not UTF-8", python.display()))?;
    PythonEnvironment::new(path, SysPrefixPathOrigin::PythonCliFlag, system).map_err(|error| error.to_string())
}

fn beside(project: &Path, roots: &[PathBuf], system: &OsSystem) -> Result<PythonEnvironment, String> {
    let active = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let folders = std::iter::once(project).chain(roots.iter().flat_map(|root| root.ancestors().take(4)));
    let near = folders
        .flat_map(|folder| [".venv", "venv", "env"].map(|name| folder.join(name)))
        .filter(|folder| folder.join("pyvenv.cfg").exists());
    let mut broken = None;
    for folder in active.into_iter().chain(near) {
        match opened(&folder, system) {
            Ok(found) => return Ok(found),
            Err(why) => broken = Some(format!("the virtual environment {} is unusable: {why}", folder.display())),
        }
    }
    Err(broken.unwrap_or_else(|| {
        "no virtual environment was found (activate one, or name it with --python or --site-packages)".to_owned()
    }))
}

/// Distributions of which the metadata are there and the modules are not: an installation that was interrupted.
pub fn half_installed(environment: &Environment) -> Vec<String> {
    let mut found = vec![];
    for folder in &environment.site_packages {
        for entry in std::fs::read_dir(folder.as_std_path()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".dist-info")) else { continue };
            let modules = std::fs::read_to_string(entry.path().join("top_level.txt")).unwrap_or_default();
            let is_there = |module: &str| {
                folder.join(module).as_std_path().exists()
                    || std::fs::read_dir(folder.as_std_path()).into_iter().flatten().flatten().any(|file| {
                        let file = file.file_name();
                        let file = file.to_str().unwrap_or_default();
                        file.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
                    })
            };
            let modules: Vec<_> = modules.lines().filter(|module| !module.is_empty()).collect();
            if !modules.is_empty() && !modules.iter().any(|module| is_there(module)) {
                found.push(format!("{name} is only half installed: {} is not there", modules[0]));
            }
        }
    }
    found.sort();
    found
}
