//! `loopwright._loopwright`: carries out on asyncio what `loopwright-core` decides. One file per public object.

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _loopwright {
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
