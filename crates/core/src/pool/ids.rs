//! The ledger's numbers as plain ones: for whoever keeps things beside it, by connection or key.

use super::{Conn, KeyId};

macro_rules! numbered {
    ($id:ty) => {
        impl $id {
            /// A small number, used again when this one is stale.
            #[must_use]
            pub const fn index(self) -> usize {
                self.index as usize
            }

            /// All of it, to be had back from [`from_bits`](Self::from_bits).
            #[must_use]
            pub const fn to_bits(self) -> u64 {
                (self.serial as u64) << 32 | self.index as u64
            }

            /// What [`to_bits`](Self::to_bits) gave. Any other number is a stale one.
            #[must_use]
            #[allow(clippy::cast_possible_truncation, reason = "two halves")]
            pub const fn from_bits(bits: u64) -> Self {
                Self { index: bits as u32, serial: (bits >> 32) as u32 }
            }
        }
    };
}

numbered!(Conn);
numbered!(KeyId);
