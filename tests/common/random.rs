//! Chance that can be had again: a seed, and variables of the environment that set it and how much of it there is.

/// A generator of pseudo-random numbers (splitmix64): any seed will do, and two that are neighbours give different
/// numbers.
pub struct Random(u64);

impl Random {
    /// The numbers of one part of a run: each of its own seed, whichever others there are.
    pub fn of(seed: u64, part: u64) -> Random {
        Random(seed.wrapping_mul(1_000_003).wrapping_add(part))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A number that a variable of the environment sets.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} = {text} is no number")))
}
