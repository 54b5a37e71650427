//! What others have the kernel run, who talk to it too.

use std::collections::VecDeque;

use crate::wire::Header;

/// How many requests are remembered that are over.
const REMEMBERED: usize = 64;

/// The type of a cell's request.
const CELL: &str = "execute_request";

/// As iopub tells it, which comes by another way than what the code of a cell says to us.
#[derive(Debug, Clone, Default)]
pub struct Others {
    /// What it runs: mostly one cell; also what moved widgets set off, which may come beside it.
    running: Vec<Header>,
    /// Ids of what it has run.
    over: VecDeque<String>,
    /// The last cell that it told the code of, as it does not of what frontends ask in silence.
    cell: Option<Header>,
}

impl Others {
    /// Does it run anything of theirs?
    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Was this request of theirs seen to begin? What it said since may be over.
    pub fn has_begun(&self, msg_id: &str) -> bool {
        self.running.iter().any(|header| header.msg_id == msg_id) || self.over.iter().any(|id| id == msg_id)
    }

    /// The cell that runs, or ran last.
    pub fn cell(&self) -> Option<&Header> {
        self.running.iter().rev().find(|header| header.msg_type == CELL).or(self.cell.as_ref())
    }

    // Each says whether that changes anything.

    pub(super) fn begin(&mut self, header: &Header) -> bool {
        let is_new = is_served_in_turn(header) && !self.running.iter().any(|running| running.msg_id == header.msg_id);
        if is_new {
            self.running.push(header.clone());
        }
        is_new
    }

    /// Its code was told.
    pub(super) fn told(&mut self, header: &Header) -> bool {
        self.cell = Some(header.clone());
        true
    }

    pub(super) fn end(&mut self, header: &Header) -> bool {
        let Some(at) = self.running.iter().position(|running| running.msg_id == header.msg_id) else { return false };
        self.over.push_back(self.running.remove(at).msg_id);
        if self.over.len() > REMEMBERED {
            self.over.pop_front();
        }
        true
    }
}

/// What runs the code of people; all else is answered in between, some of it while a cell runs.
fn is_served_in_turn(header: &Header) -> bool {
    matches!(&*header.msg_type, CELL | "comm_open" | "comm_msg" | "comm_close")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(msg_id: &str, msg_type: &str) -> Header {
        Header {
            msg_id: msg_id.into(),
            session: "theirs".into(),
            username: "somebody".into(),
            date: "2026-01-01T00:00:00Z".into(),
            msg_type: msg_type.into(),
            version: "5.3".into(),
            subshell_id: None,
        }
    }

    #[test]
    fn cells_and_widgets_may_overlap() {
        let mut others = Others::default();
        let (cell, moved) = (header("a", "execute_request"), header("b", "comm_msg"));
        assert!(!others.begin(&header("i", "kernel_info_request")) && !others.is_running());
        assert!(others.begin(&cell) && others.begin(&moved) && others.end(&cell));
        assert!(others.is_running() && others.has_begun("a") && others.has_begun("b") && !others.has_begun("c"));
        assert_eq!(others.cell().map(|cell| &*cell.msg_id), None, "a widget is no cell, and what is silent is over");
        assert!(others.told(&cell) && others.begin(&header("c", CELL)));
        assert_eq!(others.cell().map(|cell| &*cell.msg_id), Some("c"));
        assert!(others.end(&header("c", CELL)));
        assert_eq!(others.cell().map(|cell| &*cell.msg_id), Some("a"));
        assert!(others.end(&moved) && !others.end(&moved) && !others.is_running());
        for number in 0..=REMEMBERED {
            let header = header(&number.to_string(), "execute_request");
            assert!(others.begin(&header) && others.end(&header));
        }
        assert!(!others.has_begun("a") && others.has_begun("5"));
    }
}
