//! parse → run → exit status; nothing else.

fn main() {}
