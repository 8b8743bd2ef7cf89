//! A heap that an exception cannot damage: heapq on a list, undone when a comparison raises.
//!
//! `heapq.heappush` leaves an item that does not compare in the list, at some place; `heapq.heappop` loses the item it
//! was about to return (two entries of equal priority whose payloads do not compare: met sooner or later). Both move
//! items along one path of the tree only, so both can be undone without a comparison.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

/// Adds an item, or leaves the heap as it was.
///
/// # Errors
/// What a comparison raises; `RuntimeError` when it changed the heap.
pub fn push<'py>(heap: &Bound<'py, PyList>, item: Bound<'py, PyAny>) -> PyResult<()> {
    static PUSH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let size = heap.len();
    let pushed = PUSH.import(heap.py(), "heapq", "heappush")?.call1((heap, &item));
    pushed.map(drop).or_else(|error| undo_push(heap, &item, size).and(Err(error)))
}

/// Takes the smallest item, or leaves the heap as it was.
///
/// # Errors
/// `IndexError` when it is empty; what a comparison raises; `RuntimeError` when it changed the heap.
pub fn pop<'py>(heap: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyAny>> {
    static POP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let size = heap.len();
    let ends = if size == 0 { None } else { Some((heap.get_item(0)?, heap.get_item(size - 1)?)) };
    let popped = POP.import(heap.py(), "heapq", "heappop")?.call1((heap,));
    match (popped, ends) {
        (Err(error), Some((first, last))) => undo_pop(heap, first, last, size).and(Err(error)),
        (popped, _) => popped,
    }
}

fn parent(at: usize) -> usize {
    (at - 1) / 2
}

/// The item went in at the end and has risen to somewhere on the path to the root; what it passed moved down by one.
fn undo_push(heap: &Bound<'_, PyList>, item: &Bound<'_, PyAny>, size: usize) -> PyResult<()> {
    if heap.len() != size + 1 {
        return Ok(()); // a comparison changed the list: what is where, nobody knows
    }
    let mut path = vec![size];
    let mut at = size;
    while !heap.get_item(at)?.is(item) {
        if at == 0 {
            return Ok(());
        }
        at = parent(at);
        path.push(at);
    }
    for pair in path.windows(2).rev() {
        heap.set_item(pair[1], heap.get_item(pair[0])?)?;
    }
    heap.del_item(size)
}

/// The last item went to the root and has sunk to somewhere; what it passed moved up by one.
fn undo_pop<'py>(
    heap: &Bound<'py, PyList>,
    first: Bound<'py, PyAny>,
    last: Bound<'py, PyAny>,
    size: usize,
) -> PyResult<()> {
    if heap.len() != size - 1 {
        return Ok(());
    }
    let Some(mut at) = heap.iter().position(|item| item.is(&last)) else { return Ok(()) };
    while at > 0 {
        heap.set_item(at, heap.get_item(parent(at))?)?;
        at = parent(at);
    }
    heap.set_item(0, first)?;
    heap.append(last)
}
