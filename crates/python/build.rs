//! Makes PyO3's `Py_3_N` cfgs available to this crate, and refuses interpreters it was not tested on.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    if pyo3_build_config::get().is_free_threaded() {
        println!(
            "cargo::error=Loopwright does not support free-threaded builds of CPython yet: it has not been tested \
             without the GIL. Build with the ordinary interpreter of the same version."
        );
    }
}
