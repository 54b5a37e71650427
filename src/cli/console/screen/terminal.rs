//! Which images a terminal shows: by its environment, else by what it answers.
//!
//! The editor of the prompt reads from the same terminal, so it is asked once, before the editor begins, and what the user
//! typed stays the user's.

use std::{
    fs::File,
    io::{Read, Write},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::retry_on_intr,
    termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr},
};

use super::sixel::MOST_COLOURS;

/// A terminal that answers at all does so within a few milliseconds.
const NEAR: Duration = Duration::from_millis(100);
/// One at the other end of the world; an answer that comes later would be typed at the prompt.
const FAR: Duration = Duration::from_secs(1);
/// More is no answer.
const LONGEST: usize = 4096;
/// How many colours has a sixel image? What are you? Terminals that have no answer to the first have one to the second.
const QUESTIONS: &[u8] = b"\x1b[?1;1;0S\x1b[c";

/// How a terminal is shown an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Kitty, Ghostty.
    Kitty,
    /// iTerm2, WezTerm.
    Iterm,
    /// xterm (if it is told to), mlterm, foot, Konsole, tmux and others.
    Sixel {
        /// How many it has.
        colours: u16,
    },
}

/// What the environment says.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// It shows images.
    Shows(Protocol),
    /// It shows none.
    Nothing,
    /// Ask it, and wait for so long.
    Ask(Duration),
}

/// What was read after the questions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Nothing that belongs to it is still to come.
    pub is_whole: bool,
    pub protocol: Option<Protocol>,
    /// What was typed meanwhile.
    pub typed: String,
}

/// A terminal that shows nothing of what comes from it, and gives it at once, until this is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

/// What these variables say.
pub fn known(variable: impl Fn(&str) -> Option<String>) -> Known {
    let value = |name| variable(name).unwrap_or_default();
    let is_set = |name| !value(name).is_empty();
    let (term, program) = (value("TERM"), value("TERM_PROGRAM"));
    // What they say is of the terminal behind such a one, which does not pass on what it does not know.
    let is_between =
        ["TMUX", "STY", "ZELLIJ"].into_iter().any(is_set) || term.starts_with("screen") || term.starts_with("tmux");
    match (&*term, &*program) {
        ("" | "dumb", _) => return Known::Nothing,
        _ if is_between => {}
        ("xterm-kitty" | "xterm-ghostty", _) | (_, "ghostty") => return Known::Shows(Protocol::Kitty),
        (_, "iTerm.app" | "WezTerm") => return Known::Shows(Protocol::Iterm),
        // Goes along with ssh.
        _ if value("LC_TERMINAL") == "iTerm2" => return Known::Shows(Protocol::Iterm),
        _ if is_set("KITTY_WINDOW_ID") => return Known::Shows(Protocol::Kitty),
        _ => {}
    }
    Known::Ask(if is_set("SSH_CONNECTION") || is_set("SSH_TTY") { FAR } else { NEAR })
}

/// Ask the terminal; what was read until it had answered or the time was over. One that is typed into is not asked.
pub fn ask(patience: Duration) -> Option<Vec<u8>> {
    let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    // In the background we would be stopped.
    if tcgetpgrp(&terminal).ok()? != rustix::process::getpgrp() {
        return None;
    }
    let _quiet = Quiet::new(&terminal)?;
    if is_readable(&terminal, Duration::ZERO) {
        return None;
    }
    let deadline = Instant::now() + patience;
    (&terminal).write_all(QUESTIONS).ok()?;
    let mut read = Vec::new();
    while !understand(&read).is_whole && read.len() < LONGEST {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !is_readable(&terminal, left) {
            break;
        }
        let mut piece = [0; 256];
        match (&terminal).read(&mut piece) {
            Ok(length) if length > 0 => read.extend_from_slice(&piece[..length]),
            _ => break,
        }
    }
    Some(read)
}

/// What was answered, and what was typed before, between and after.
pub fn understand(read: &[u8]) -> Answer {
    let (mut is_whole, mut has_sixels, mut colours) = (false, false, None);
    let mut typed = Vec::new();
    let mut rest = read;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\x1b' {
            typed.push(byte);
            continue;
        }
        let Some(sequence) = rest.strip_prefix(b"[") else { continue };
        // One that was cut off is nobody's text.
        let Some(end) = sequence.iter().position(|byte| (b'@'..=b'~').contains(byte)) else { break };
        rest = &sequence[end + 1..];
        // Any other is a key, such as an arrow, which there is nothing for yet.
        let Some(parameters) = sequence[..end].strip_prefix(b"?") else { continue };
        let numbers: Vec<Option<u32>> = parameters.split(|byte| *byte == b';').map(number).collect();
        match (sequence[end], &numbers[..]) {
            (b'c', [_, attributes @ ..]) => (is_whole, has_sixels) = (true, attributes.contains(&Some(4))),
            (b'S', [Some(1), Some(0), Some(count)]) => colours = Some(*count),
            _ => {}
        }
    }
    let colours = colours.unwrap_or(MOST_COLOURS.into()).clamp(2, MOST_COLOURS.into()) as u16;
    let typed = String::from_utf8_lossy(&typed).replace('\r', "\n");
    Answer {
        is_whole,
        protocol: has_sixels.then_some(Protocol::Sixel { colours }),
        typed: typed.chars().filter(|character| *character == '\n' || !character.is_control()).collect(),
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_readable(terminal: &File, patience: Duration) -> bool {
    let Ok(patience) = Timespec::try_from(patience) else { return false };
    let mut waits = [PollFd::new(terminal, PollFlags::IN)];
    retry_on_intr(|| rustix::event::poll(&mut waits, Some(&patience))).is_ok_and(|count| count > 0)
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> Option<Self> {
        let before = tcgetattr(terminal).ok()?;
        let mut quiet = before.clone();
        // Ctrl-C still interrupts.
        quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        // Not `Flush`, which would drop what was typed.
        tcsetattr(terminal, OptionalActions::Now, &quiet).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIXEL: Protocol = Protocol::Sixel { colours: 256 };

    #[test]
    fn the_environment_says_which_terminal_it_is() {
        let kitty = Known::Shows(Protocol::Kitty);
        let iterm = Known::Shows(Protocol::Iterm);
        let cases: &[(&str, Known)] = &[
            ("", Known::Nothing),
            ("TERM=dumb TERM_PROGRAM=WezTerm", Known::Nothing),
            ("TERM=xterm", Known::Ask(NEAR)),
            ("TERM=xterm SSH_CONNECTION=1", Known::Ask(FAR)),
            ("TERM=xterm SSH_TTY=/dev/pts/1", Known::Ask(FAR)),
            ("TERM=xterm KITTY_WINDOW_ID=", Known::Ask(NEAR)),
            ("TERM=xterm TERM_PROGRAM=Apple_Terminal", Known::Ask(NEAR)),
            ("TERM=xterm-kitty", Known::Shows(Protocol::Kitty)),
            ("TERM=xterm-kitty SSH_TTY=/dev/pts/1", Known::Shows(Protocol::Kitty)),
            ("TERM=xterm-256color KITTY_WINDOW_ID=1", Known::Shows(Protocol::Kitty)),
            ("TERM=xterm-ghostty", Known::Shows(Protocol::Kitty)),
            ("TERM=xterm-256color TERM_PROGRAM=ghostty", kitty),
            ("TERM=xterm-256color TERM_PROGRAM=iTerm.app", Known::Shows(Protocol::Iterm)),
            ("TERM=xterm-256color TERM_PROGRAM=WezTerm", Known::Shows(Protocol::Iterm)),
            ("TERM=xterm-256color LC_TERMINAL=iTerm2 SSH_TTY=/dev/pts/1", iterm),
            // The environment is that of the terminal behind.
            ("TERM=tmux-256color TMUX=/tmp/s KITTY_WINDOW_ID=1", Known::Ask(NEAR)),
            ("TERM=screen LC_TERMINAL=iTerm2", Known::Ask(NEAR)),
            ("TERM=tmux-256color LC_TERMINAL=iTerm2 SSH_TTY=/dev/pts/1", Known::Ask(FAR)),
            ("TERM=xterm-kitty ZELLIJ=0", Known::Ask(NEAR)),
        ];
        for (variables, expected) in cases {
            let variables: std::collections::HashMap<_, _> =
                variables.split_whitespace().filter_map(|variable| variable.split_once('=')).collect();
            let known = known(|name| variables.get(name).map(|value| (*value).to_owned()));
            assert_eq!(known, *expected, "{variables:?}");
        }
    }

    #[track_caller]
    fn check(read: &[u8], is_whole: bool, protocol: Option<Protocol>, typed: &str) {
        assert_eq!(understand(read), Answer { is_whole, protocol, typed: typed.to_owned() });
    }

    #[test]
    fn a_terminal_says_whether_it_has_sixels() {
        // foot, Konsole, xterm as VT340 with 16 and with 256 colours, tmux with and without.
        check(b"\x1b[?62;4;22;28;29c", true, Some(SIXEL), "");
        check(b"\x1b[?62;1;4c", true, Some(SIXEL), "");
        check(b"\x1b[?1;0;16S\x1b[?63;1;2;4;6;9;15;22c", true, Some(Protocol::Sixel { colours: 16 }), "");
        check(b"\x1b[?1;0;1024S\x1b[?63;1;2;4;6;9;15;22c", true, Some(SIXEL), "");
        check(b"\x1b[?1;2;4c", true, Some(SIXEL), "");
        check(b"\x1b[?1;2c", true, None, "");
        // A VT420 has no sixels; a VT132 is called 4, and 4 may be part of a number.
        check(b"\x1b[?64;1;2;6;9;15;18;21;22c", true, None, "");
        check(b"\x1b[?4;6c", true, None, "");
        check(b"\x1b[?62;14;40c", true, None, "");
        // One that knows no sixels says that the question was wrong.
        check(b"\x1b[?1;3;0S\x1b[?6c", true, None, "");
        check(b"\x1b[?1;0;0S\x1b[?62;4c", true, Some(Protocol::Sixel { colours: 2 }), "");
    }

    #[test]
    fn what_was_typed_stays_the_users() {
        check(b"", false, None, "");
        check(b"len(", false, None, "len(");
        check(b"le\x1b[?62;4cn(", true, Some(SIXEL), "len(");
        check(b"a\x1b[?1;0;256Sb\x1b[?62;4cc", true, Some(SIXEL), "abc");
        check("ä = 1\r".as_bytes(), false, None, "ä = 1\n");
        check(b"\x1b[A\x1b[1;5Cx\x7f\x03y", false, None, "xy");
        check(b"x\x1b[?62;", false, None, "x");
        check(b"\x1b", false, None, "");
        check(b"\x1b[?;;c\x1b[?c\x1b[?99999999999;4c", true, Some(SIXEL), "");
    }
    #[test]
    fn whatever_is_read_is_no_panic() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..50_000 {
            let read: Vec<u8> = (0..random.usize(..24))
                .map(
                    |_| if random.u8(..8) == 0 { random.u8(..) } else { *random.choice(b"\x1b[?;146cS").expect("one") },
                )
                .collect();
            let answer = understand(&read);
            assert!(answer.is_whole || answer.protocol.is_none(), "{read:?}");
            assert!(!answer.typed.contains('\u{1b}'), "{read:?}");
        }
    }
}
