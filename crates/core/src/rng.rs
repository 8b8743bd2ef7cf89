//! A small random number generator: the same numbers on every machine, from a seed.
//!
//! splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"). Not for secrets.

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0. Every number is as likely as the others, to one part in 2^32 or better.
    pub fn below(&mut self, bound: usize) -> usize {
        debug_assert!(bound > 0);
        #[allow(clippy::cast_possible_truncation, reason = "the product's high half is below `bound`")]
        let below = ((u128::from(self.draw()) * bound as u128) >> 64) as usize;
        below
    }

    /// A number from 0 up to, but not including, 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n.max(1)) == 0
    }
}
