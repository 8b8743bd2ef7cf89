//! The salsa database over ty's crates: where modules are looked for, and which Python is assumed.
//!
//! ty's own project crate is not published; this is the part of it that an analysis of a fixed set of files needs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use ruff_db::diagnostic::Diagnostic;
use ruff_db::files::{File, Files};
use ruff_db::system::{OsSystem, System, SystemPathBuf};
use ruff_db::vendored::VendoredFileSystem;
use ruff_python_ast::PythonVersion;
use rustc_hash::FxHashMap;
use ty_module_resolver::{SearchPathSettings, UseDefaultStrategy};
use ty_python_core::ProgramFile;
use ty_python_core::platform::PythonPlatform;
use ty_python_core::program::{Program, ProgramSettings};
use ty_python_core::scope::FileScopeId;
use ty_python_semantic::lint::{LintRegistry, RuleSelection};
use ty_python_semantic::{AnalysisSettings, PythonVersionSource, PythonVersionWithSource, default_lint_registry};

use super::budget::Failure;

/// What the queries of this crate ask of the database, besides ty's.
#[salsa::db]
pub trait AnalyserDb: ty_python_semantic::Db {
    /// Search paths, version, platform.
    fn program_settings(&self) -> &ProgramSettings;

    /// Every folder that gives modules their names.
    fn import_roots(&self) -> &[SystemPathBuf];
}

#[salsa::tracked(returns(copy))]
fn program(db: &dyn AnalyserDb) -> Program<'_> {
    Program::from_settings(db, db.program_settings())
}

/// The database. A clone is a handle for another thread.
#[salsa::db]
#[derive(Clone)]
pub struct Db {
    storage: salsa::Storage<Self>,
    files: Files,
    system: OsSystem,
    vendored: VendoredFileSystem,
    rules: Arc<RuleSelection>,
    analysis: Arc<AnalysisSettings>,
    settings: Arc<ProgramSettings>,
    paths: Arc<Mutex<FxHashMap<File, Arc<str>>>>,
    import_roots: Arc<[SystemPathBuf]>,
    given_up: Arc<Mutex<FxHashMap<(File, FileScopeId), Failure>>>,
    some_given_up: Arc<AtomicBool>,
}

impl Db {
    /// `roots`: where the project's own imports begin, `names` those that give modules their names. `site_packages`:
    /// where the installed ones are.
    pub fn new(
        roots: Vec<SystemPathBuf>,
        names: Vec<SystemPathBuf>,
        site_packages: Vec<SystemPathBuf>,
        version: PythonVersion,
    ) -> anyhow::Result<Self> {
        let vendored = ty_vendored::file_system().clone();
        let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let here =
            SystemPathBuf::from_path_buf(here).map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))?;
        let mut db = Self {
            storage: salsa::Storage::new(None),
            files: Files::default(),
            system: OsSystem::new(&here),
            settings: Arc::new(ProgramSettings::empty(&vendored)),
            vendored,
            rules: Arc::new(RuleSelection::from_registry(default_lint_registry())),
            analysis: Arc::new(AnalysisSettings::default()),
            paths: Arc::default(),
            given_up: Arc::default(),
            some_given_up: Arc::default(),
            import_roots: names.iter().chain(&site_packages).cloned().collect(),
        };
        let paths =
            SearchPathSettings { src_roots: roots, site_packages_paths: site_packages, ..SearchPathSettings::empty() };
        let settings = ProgramSettings {
            python_version: PythonVersionWithSource { version, source: PythonVersionSource::default() },
            python_platform: PythonPlatform::Identifier("linux".into()),
            search_paths: paths
                .to_search_paths(&db.system, &db.vendored, &UseDefaultStrategy)
                .context("no search paths")?,
        };
        settings.search_paths.try_register_static_roots(&db);
        db.settings = Arc::new(settings);
        Ok(db)
    }

    /// The path of a file as the facts have it: one text, however many keys name it.
    pub fn path(&self, file: File) -> Arc<str> {
        let mut paths = self.paths.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        paths.entry(file).or_insert_with(|| Arc::from(file.path(self).as_str())).clone()
    }

    /// Remembers that the types of a scope cannot be had.
    pub(super) fn give_up(&self, file: File, scope: FileScopeId, why: Failure) {
        self.given_up.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert((file, scope), why);
        self.some_given_up.store(true, Ordering::Release);
    }

    /// Whether they cannot.
    pub(super) fn is_given_up(&self, file: File, scope: impl FnOnce() -> Option<FileScopeId>) -> bool {
        self.some_given_up.load(Ordering::Acquire)
            && scope().is_some_and(|scope| {
                self.given_up.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains_key(&(file, scope))
            })
    }

    /// Everything that was given up.
    pub(super) fn all_given_up(&self) -> Vec<(File, FileScopeId, Failure)> {
        let given_up = self.given_up.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        given_up.iter().map(|((file, scope), why)| (*file, *scope, why.clone())).collect()
    }

    /// The one program of this database.
    pub fn program(&self) -> Program<'_> {
        program(self)
    }
}

#[salsa::db]
impl ruff_db::Db for Db {
    fn vendored(&self) -> &VendoredFileSystem {
        &self.vendored
    }
    fn system(&self) -> &dyn System {
        &self.system
    }
    fn files(&self) -> &Files {
        &self.files
    }
}

#[salsa::db]
impl ty_module_resolver::Db for Db {}

#[salsa::db]
impl ty_python_core::Db for Db {
    fn should_check_file(&self, file: File) -> bool {
        !file.path(self).is_vendored_path()
    }
}

#[salsa::db]
impl AnalyserDb for Db {
    fn program_settings(&self) -> &ProgramSettings {
        &self.settings
    }
    fn import_roots(&self) -> &[SystemPathBuf] {
        &self.import_roots
    }
}

#[salsa::db]
impl ty_python_semantic::Db for Db {
    fn check_file(&self, file: File) -> Vec<Diagnostic> {
        ty_python_semantic::check_file_unwrap(self, self.program_file(file))
    }
    fn program_file(&self, file: File) -> ProgramFile<'_> {
        self.program().program_file(self, file)
    }
    fn python_version_with_source(&self, _: File) -> &PythonVersionWithSource {
        &self.settings.python_version
    }
    fn rule_selection(&self, _: File) -> &RuleSelection {
        &self.rules
    }
    fn lint_registry(&self) -> &LintRegistry {
        default_lint_registry()
    }
    fn analysis_settings(&self, _: File) -> &AnalysisSettings {
        &self.analysis
    }
    fn verbose(&self) -> bool {
        false
    }
    fn is_open_file(&self, _: File) -> bool {
        false
    }
    fn dyn_clone(&self) -> Box<dyn ty_python_semantic::Db> {
        Box::new(self.clone())
    }
}

#[salsa::db]
impl salsa::Database for Db {}
