//! Pixels as [sixels](https://vt100.net/docs/vt3xx-gp/chapter14.html): bands of six rows, each drawn once for every colour
//! in it.
//!
//! Colours are exact, as far as sixels can say them (in percent), while there are few, as in most plots.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
};

use super::pixels::Pixels;

/// What every terminal with sixels has, but for the first ones.
pub const MOST_COLOURS: u16 = 256;
/// Less opaque pixels are not drawn.
const OPAQUE: u8 = 128;

/// In percent.
type Colour = [u8; 3];

/// Colours that become one.
struct Crowd {
    colours: Vec<(Colour, u64)>,
    /// Where they differ most: red, green or blue.
    axis: usize,
    low: u8,
    high: u8,
}

/// The escape sequence that shows them, with so many colours at most.
pub fn encode(pixels: &Pixels, most_colours: u16) -> String {
    let colours: Vec<Option<Colour>> = pixels.rgba.as_chunks().0.iter().map(percent).collect();
    let (palette, indices) = reduce(&colours, most_colours.clamp(2, MOST_COLOURS).into());
    let (width, height) = (pixels.width, pixels.height);
    // Square pixels; what is not drawn stays as it is.
    let mut text = format!("\x1bP9;1;0q\"1;1;{width};{height}");
    for (index, [red, green, blue]) in palette.iter().enumerate() {
        push(&mut text, format_args!("#{index};2;{red};{green};{blue}"));
    }
    for (number, band) in colours.chunks(width.max(1) * 6).enumerate() {
        if number > 0 {
            text.push('-');
        }
        let mut rows: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for (place, colour) in band.iter().enumerate() {
            let Some(index) = colour.and_then(|colour| indices.get(&colour)) else { continue };
            rows.entry(*index).or_insert_with(|| vec![0; width])[place % width] |= 1 << (place / width);
        }
        for (drawn, (index, sixels)) in rows.iter().enumerate() {
            // Back to the left for another colour.
            push(&mut text, format_args!("{}#{index}", if drawn > 0 { "$" } else { "" }));
            draw(&mut text, sixels);
        }
    }
    text + "\x1b\\"
}

/// The sixels of one colour in a band, from the left.
fn draw(text: &mut String, sixels: &[u8]) {
    let end = sixels.iter().rposition(|sixel| *sixel != 0).map_or(0, |last| last + 1);
    for run in sixels[..end].chunk_by(|one, next| one == next) {
        let character = char::from(b'?' + run[0]);
        match run.len() {
            1..=3 => text.extend(run.iter().map(|_| character)),
            length => push(text, format_args!("!{length}{character}")),
        }
    }
}

/// A colour, if it is to be seen.
fn percent(&[red, green, blue, opacity]: &[u8; 4]) -> Option<Colour> {
    let percent = |value: u8| ((u16::from(value) * 100 + 127) / 255) as u8;
    (opacity >= OPAQUE).then(|| [percent(red), percent(green), percent(blue)])
}

/// At most so many colours, and which of them stands for each.
fn reduce(colours: &[Option<Colour>], most: usize) -> (Vec<Colour>, HashMap<Colour, u8>) {
    let mut counts: BTreeMap<Colour, u64> = BTreeMap::new();
    for colour in colours.iter().flatten() {
        *counts.entry(*colour).or_default() += 1;
    }
    if counts.is_empty() {
        return (Vec::new(), HashMap::new());
    }
    // The crowd that differs most is halved until there are enough: a colour that is rare but unlike the others stays.
    let mut crowds = vec![Crowd::of(counts.into_iter().collect())];
    while crowds.len() < most {
        let widest = crowds.iter().enumerate().max_by_key(|(_, crowd)| crowd.high - crowd.low);
        let Some((index, crowd)) = widest.filter(|(_, crowd)| crowd.low < crowd.high) else { break };
        let (axis, middle) = (crowd.axis, crowd.low + (crowd.high - crowd.low) / 2);
        let (low, high) = crowds.swap_remove(index).colours.into_iter().partition(|(colour, _)| colour[axis] <= middle);
        crowds.extend([Crowd::of(low), Crowd::of(high)]);
    }
    let indices = crowds.iter().zip(0..=u8::MAX);
    let indices = indices.flat_map(|(crowd, index)| crowd.colours.iter().map(move |(own, _)| (*own, index)));
    (crowds.iter().map(Crowd::mean).collect(), indices.collect())
}

impl Crowd {
    fn of(colours: Vec<(Colour, u64)>) -> Self {
        let ends = [0, 1, 2].map(|axis| {
            let values = || colours.iter().map(|(colour, _)| colour[axis]);
            (values().min().unwrap_or(0), values().max().unwrap_or(0))
        });
        let axis = (0..3).max_by_key(|axis| ends[*axis].1 - ends[*axis].0).unwrap_or(0);
        Self { axis, low: ends[axis].0, high: ends[axis].1, colours }
    }

    fn mean(&self) -> Colour {
        let count = self.colours.iter().map(|(_, count)| count).sum::<u64>().max(1);
        [0, 1, 2].map(|axis| {
            let sum: u64 = self.colours.iter().map(|(colour, count)| u64::from(colour[axis]) * count).sum();
            ((sum + count / 2) / count) as u8
        })
    }
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = text.write_fmt(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::screen::pixels::tests::noise;

    /// What a terminal would draw: width, height and the colour of each pixel.
    fn decoded(sixel: &str) -> (usize, usize, Vec<Option<Colour>>) {
        let body = sixel.strip_prefix("\x1bP9;1;0q\"1;1;").and_then(|rest| rest.strip_suffix("\x1b\\")).expect("DCS");
        let end = body.find(['#', '-']).unwrap_or(body.len());
        let (width, height) = body[..end].split_once(';').expect("a size");
        let (width, height): (usize, usize) = (width.parse().expect("a number"), height.parse().expect("a number"));
        let (mut drawn, mut palette, mut colour) = (vec![None; width * height], HashMap::new(), None);
        let (mut column, mut top, mut rest) = (0, 0, &body[end..]);
        fn number(rest: &mut &str) -> usize {
            let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            let (number, after) = rest.split_at(end);
            *rest = after;
            number.parse().expect("a number")
        }
        while let Some(command) = rest.chars().next() {
            rest = &rest[1..];
            let mut count = 1;
            let mut sixel = command;
            match command {
                '$' => column = 0,
                '-' => (column, top) = (0, top + 6),
                '#' => {
                    let index = number(&mut rest);
                    let mut values = Vec::new();
                    while let Some(after) = rest.strip_prefix(';') {
                        rest = after;
                        values.push(number(&mut rest));
                    }
                    match values[..] {
                        [] => colour = palette.get(&index).copied(),
                        [2, red, green, blue] => {
                            assert_eq!(palette.insert(index, [red, green, blue].map(|value| value as u8)), None)
                        }
                        _ => panic!("no colour: {values:?}"),
                    }
                }
                '!' => {
                    count = number(&mut rest);
                    sixel = rest.chars().next().expect("a sixel");
                    rest = &rest[1..];
                }
                '?'..='~' => {}
                other => panic!("no command: {other}"),
            }
            if ('?'..='~').contains(&sixel) {
                let bits = sixel as u8 - b'?';
                for column in column..column + count {
                    for row in (0..6).filter(|row| bits & (1 << row) != 0) {
                        drawn[(top + row) * width + column] = Some(colour.expect("a colour"));
                    }
                }
                column += count;
            }
        }
        (width, height, drawn)
    }

    #[test]
    fn few_colours_come_back_as_they_were() {
        let shades = [[0, 0, 0, 255], [255, 255, 255, 255], [31, 119, 180, 255], [255, 127, 14, 255], [1, 2, 3, 0]];
        let mut random = fastrand::Rng::with_seed(3);
        for (width, height) in [(1, 1), (1, 6), (1, 7), (5, 13), (300, 20)] {
            // In runs, as in plots.
            let rgba: Vec<u8> = (0..width * height / 4 + 1)
                .flat_map(|_| shades[random.usize(..shades.len())].repeat(4))
                .take(width * height * 4)
                .collect();
            let sixel = encode(&Pixels { width, height, rgba: rgba.clone() }, 256);
            let expected: Vec<_> = rgba.as_chunks().0.iter().map(percent).collect();
            assert_eq!(decoded(&sixel), (width, height, expected));
        }
        // Nothing to be seen.
        let sixel = encode(&Pixels { width: 2, height: 7, rgba: vec![0; 56] }, 256);
        assert_eq!(decoded(&sixel), (2, 7, vec![None; 14]));
    }

    #[test]
    fn many_colours_become_few_that_are_near() {
        for (most, distance) in [(256, 20), (16, 60), (2, 100)] {
            let pixels = Pixels { width: 60, height: 50, rgba: noise(60, 50) };
            let (_, _, drawn) = decoded(&encode(&pixels, most));
            let drawn: Vec<Colour> = drawn.into_iter().map(|colour| colour.expect("opaque")).collect();
            let different: std::collections::BTreeSet<_> = drawn.iter().collect();
            assert!(different.len() <= usize::from(most) && different.len() > usize::from(most) / 2);
            for (own, drawn) in pixels.rgba.as_chunks().0.iter().zip(&drawn) {
                let own = percent(own).expect("opaque");
                assert!(
                    own.iter().zip(drawn).all(|(own, drawn)| own.abs_diff(*drawn) <= distance),
                    "{own:?} {drawn:?}"
                );
            }
        }
    }

    #[test]
    fn a_rare_colour_stays() {
        // A line of one pixel in a picture of many greys.
        let mut rgba: Vec<u8> =
            (0..10_000u32).flat_map(|n| [[(n % 256) as u8; 3].as_slice(), &[255]].concat()).collect();
        rgba[4000..4004].copy_from_slice(&[255, 0, 0, 255]);
        let (_, _, drawn) = decoded(&encode(&Pixels { width: 100, height: 100, rgba }, 16));
        assert_eq!(drawn[1000], Some([100, 0, 0]));
    }
}
