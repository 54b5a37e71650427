//! Images in the terminal, where it can show them.
//!
//! Images come from plugins, so a terminal gets none that was not decoded here, within limits. What cannot be shown is an
//! error to tell, and never the end of a console. Nothing is written where stdout is no terminal.

mod pixels;
mod sixel;
mod terminal;

use std::io::{IsTerminal, Write, stdout};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};

use self::{
    pixels::Pixels,
    terminal::{Known, Protocol},
};
use crate::cli::args::ShowImages;

/// What a terminal takes as one piece of an image (kitty graphics protocol).
const CHUNK: usize = 4096;
/// xterm takes no more of a sixel image, in either direction, unless it is told to.
const SIXEL_SIDE: usize = 1000;
/// The pixels of a column and of a row, where the terminal does not tell.
const CELL: (usize, usize) = (8, 16);

/// The terminal that shows images, if stdout is one that does.
pub struct Screen(Option<Protocol>);

/// The width of a terminal, and the height of its rows in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    columns: usize,
    width: usize,
    row: usize,
}

impl Screen {
    /// As the user says, else as the terminal does, which is asked once; also what was typed while it was.
    pub async fn find(images: ShowImages) -> (Self, String) {
        let protocol = match images {
            _ if !stdout().is_terminal() => None,
            ShowImages::Off => None,
            ShowImages::Kitty => Some(Protocol::Kitty),
            ShowImages::Iterm => Some(Protocol::Iterm),
            ShowImages::Sixel => Some(Protocol::Sixel { colours: sixel::MOST_COLOURS }),
            ShowImages::Auto => match terminal::known(|name| std::env::var(name).ok()) {
                Known::Shows(protocol) => Some(protocol),
                Known::Nothing => None,
                Known::Ask(patience) => {
                    let asked = tokio::task::spawn_blocking(move || terminal::ask(patience)).await;
                    let answer = terminal::understand(&asked.ok().flatten().unwrap_or_default());
                    return (Self(answer.protocol), answer.typed);
                }
            },
        };
        (Self(protocol), String::new())
    }

    /// Show a PNG, if the terminal can.
    pub fn show(&self, png: &[u8]) -> anyhow::Result<()> {
        let Some(protocol) = self.0 else { return Ok(()) };
        let text = escapes(png, protocol, Window::now())?;
        let mut out = stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).context("cannot write to the terminal")
    }
}

impl Window {
    /// As it is now; it may have another size for the next image.
    fn now() -> Self {
        let size = rustix::termios::tcgetwinsize(stdout());
        let size = size.map(|size| [size.ws_col, size.ws_row, size.ws_xpixel, size.ws_ypixel]);
        Self::of(size.unwrap_or_default().map(usize::from))
    }

    /// Terminals say 0 for what they do not know.
    fn of([columns, rows, width, height]: [usize; 4]) -> Self {
        let columns = if columns == 0 { 80 } else { columns };
        let width = if width == 0 { columns * CELL.0 } else { width };
        Self { columns, width, row: height.checked_div(rows).filter(|row| *row > 0).unwrap_or(CELL.1) }
    }
}

/// A PNG for a terminal, no wider than its window.
fn escapes(png: &[u8], protocol: Protocol, window: Window) -> anyhow::Result<String> {
    let pixels = Pixels::decode(png)?;
    let is_wide = pixels.width > window.width;
    Ok(match protocol {
        Protocol::Kitty => {
            let rows = (pixels.height * window.width).div_ceil(pixels.width.max(1) * window.row);
            kitty(png, is_wide.then_some((window.columns, rows)))
        }
        Protocol::Iterm => iterm(png, is_wide),
        Protocol::Sixel { colours } => sixel::encode(&pixels.shrunk(window.width.min(SIXEL_SIDE), SIXEL_SIDE), colours),
    })
}

/// [Kitty's graphics protocol](https://sw.kovidgoyal.net/kitty/graphics-protocol/): show a PNG here, and answer nothing,
/// since an answer would be typed at the prompt. Into so many columns and rows, of which older versions need both.
fn kitty(png: &[u8], cells: Option<(usize, usize)>) -> String {
    let data = BASE64_STANDARD.encode(png);
    let mut rest = data.as_str();
    let mut text = String::with_capacity(data.len() + data.len() / CHUNK * 16 + 64);
    let mut keys =
        format!("a=T,f=100,{}", cells.map(|(columns, rows)| format!("c={columns},r={rows},")).unwrap_or_default());
    while !rest.is_empty() {
        let chunk;
        (chunk, rest) = rest.split_at(rest.len().min(CHUNK));
        let has_more = u8::from(!rest.is_empty());
        text += &format!("\x1b_G{keys}q=2,m={has_more};{chunk}\x1b\\");
        keys.clear();
    }
    text
}

/// [iTerm2's](https://iterm2.com/documentation-images.html): a file, to be shown here.
fn iterm(png: &[u8], is_wide: bool) -> String {
    let width = if is_wide { "100%" } else { "auto" };
    let data = BASE64_STANDARD.encode(png);
    format!("\x1b]1337;File=inline=1;size={};width={width};preserveAspectRatio=1:{data}\x07", png.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pixels::tests::{noise, png};

    const WINDOW: Window = Window { columns: 80, width: 640, row: 16 };

    /// The keys and the data of each piece.
    fn pieces(text: &str) -> Vec<(&str, &str)> {
        let pieces = text.strip_suffix("\x1b\\").expect("an end").split("\x1b\\");
        pieces.map(|piece| piece.strip_prefix("\x1b_G").and_then(|piece| piece.split_once(';')).expect("one")).collect()
    }

    #[test]
    fn kitty_gets_the_very_file_in_chunks() {
        for (width, height) in [(1, 1), (40, 30), (300, 200)] {
            let png = png(width, height, &noise(width, height));
            let text = escapes(&png, Protocol::Kitty, WINDOW).expect("shown");
            let pieces = pieces(&text);
            let last = pieces.len() - 1;
            for (index, (keys, data)) in pieces.iter().enumerate() {
                let first = if index == 0 { "a=T,f=100," } else { "" };
                assert_eq!(*keys, format!("{first}q=2,m={}", u8::from(index < last)));
                assert!(index == last || data.len() == CHUNK, "{index}: {}", data.len());
                assert!(data.len() <= CHUNK);
            }
            let data: String = pieces.iter().map(|(_, data)| *data).collect();
            assert_eq!(BASE64_STANDARD.decode(data).expect("base64"), png);
        }
        // Exactly one chunk, and exactly two.
        for count in [1, 2] {
            let data = vec![7; CHUNK / 4 * 3 * count];
            assert_eq!(pieces(&kitty(&data, None)).len(), count);
        }
    }

    #[test]
    fn iterm_gets_the_very_file() {
        let png = png(40, 30, &noise(40, 30));
        let text = escapes(&png, Protocol::Iterm, WINDOW).expect("shown");
        let (head, data) = text.strip_suffix('\x07').and_then(|text| text.split_once(':')).expect("a file");
        let size = png.len();
        assert_eq!(head, format!("\x1b]1337;File=inline=1;size={size};width=auto;preserveAspectRatio=1"));
        assert_eq!(BASE64_STANDARD.decode(data).expect("base64"), png);
    }

    #[test]
    fn none_is_wider_than_the_window() {
        let png = png(1280, 300, &noise(1280, 300));
        let kitty = escapes(&png, Protocol::Kitty, WINDOW).expect("shown");
        assert!(kitty.starts_with("\x1b_Ga=T,f=100,c=80,r=10,q=2,"), "{}", &kitty[..40]);
        assert!(escapes(&png, Protocol::Iterm, WINDOW).expect("shown").contains(";width=100%;"));
        let sixel = escapes(&png, Protocol::Sixel { colours: 256 }, WINDOW).expect("shown");
        assert!(sixel.starts_with("\x1bP9;1;0q\"1;1;640;150#"), "{}", &sixel[..40]);
        // Whatever is not known.
        assert_eq!(Window::of([0; 4]), WINDOW);
        assert_eq!(Window::of([100, 0, 0, 500]), Window { columns: 100, width: 800, row: 16 });
        assert_eq!(Window::of([100, 50, 1900, 1000]), Window { columns: 100, width: 1900, row: 20 });
        assert_eq!(Window::of([100, 50, 1900, 10]), Window { columns: 100, width: 1900, row: 16 });
    }

    #[test]
    fn what_is_no_image_is_refused_for_each() {
        let whole = png(4, 4, &noise(4, 4));
        for protocol in [Protocol::Kitty, Protocol::Iterm, Protocol::Sixel { colours: 256 }] {
            escapes(&whole, protocol, WINDOW).expect("shown");
            escapes(&whole[..whole.len() - 1], protocol, WINDOW).expect_err("it is cut off");
            escapes(b"\x1b]0;a title\x07", protocol, WINDOW).expect_err("it is no PNG");
        }
    }
}
