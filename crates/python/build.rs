//! Makes PyO3's `Py_3_N` cfgs available to this crate.
fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
