//! What a simulated world chooses, so that a run can be repeated and shrunk.

/// What the world chooses: from a seed at first, and from a list when a run is repeated. 0 is the choice that harms
/// nothing.
pub struct Choices {
    /// Choices in their order.
    pub made: Vec<u32>,
    at: usize,
    seed: Option<u64>,
}

impl Choices {
    /// From a seed.
    pub fn of(seed: u64) -> Choices {
        Choices { made: Vec::new(), at: 0, seed: Some(seed) }
    }

    /// The same once more, and 0 after the last.
    pub fn again(made: Vec<u32>) -> Choices {
        Choices { made, at: 0, seed: None }
    }

    /// Below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        let choice = match &mut self.seed {
            // splitmix64, S. Vigna, public domain
            Some(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                let choice = ((z ^ (z >> 31)) % u64::from(n)) as u32;
                self.made.push(choice);
                choice
            }
            None => self.made.get(self.at).copied().unwrap_or(0) % n,
        };
        self.at += 1;
        choice
    }

    /// True once in `n`.
    pub fn rarely(&mut self, n: u32) -> bool {
        self.below(n) == n - 1
    }

    /// Milliseconds: mostly few.
    pub fn soon(&mut self) -> u64 {
        match self.below(8) {
            0..=4 => u64::from(self.below(20)),
            5 | 6 => u64::from(self.below(2_000)),
            _ => u64::from(self.below(40_000)),
        }
    }
}
