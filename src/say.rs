//! Words for people, on stdout and stderr. A reader that has gone (`inspect … | head`) or a full disk is no reason to
//! panic, as `println!` does, nor to end with another status.

/// As `println!`, for whoever still reads.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

/// As `eprintln!`.
#[macro_export]
macro_rules! say_err {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

/// As `eprint!`: the line is not ended.
#[macro_export]
macro_rules! say_err_part {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stderr(), $($words)*);
    }};
}
