//! A list of lanes that grows while everybody reads it.
//!
//! Whoever has a lane keeps it, so none is ever moved or removed: lanes are in blocks of 1, 2, 4, 8 and so on, and a block
//! stays where it is. A lane that is not needed any more stays empty until it is needed again.

use std::{
    ops::Index,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::host::lane::Lane;

/// Blocks; all of them hold 1,023 lanes.
const BLOCKS: usize = 10;

/// Lanes, counted from 0.
#[derive(Default)]
pub(crate) struct Lanes {
    blocks: [OnceLock<Box<[OnceLock<Lane>]>>; BLOCKS],
    count: AtomicUsize,
}

impl Lanes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Put one at the end, and say where that is. For one caller at a time; the lane is lost if there are too many.
    pub fn push(&self, lane: Lane) -> usize {
        let index = self.len();
        let (block, place) = place(index);
        if let Some(block) = self.blocks.get(block) {
            let size = index + 1 - place;
            let lanes = block.get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
            if let Some(slot) = lanes.get(place) {
                // It is the first to be put here.
                let _ = slot.set(lane);
                self.count.store(index + 1, Ordering::Release);
            }
        }
        index
    }

    pub fn get(&self, index: usize) -> Option<&Lane> {
        let (block, place) = place(index);
        self.blocks.get(block)?.get()?.get(place)?.get()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Lane> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// Block and place in it.
fn place(index: usize) -> (usize, usize) {
    let block = (index + 1).ilog2() as usize;
    (block, index + 1 - (1 << block))
}

impl Index<usize> for Lanes {
    type Output = Lane;

    /// # Panics
    ///
    /// As a `Vec` does, when there is no such lane.
    fn index(&self, index: usize) -> &Lane {
        match self.get(index) {
            Some(lane) => lane,
            None => panic!("lane {index} of {}", self.len()),
        }
    }
}
