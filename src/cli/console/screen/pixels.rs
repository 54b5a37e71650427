//! A PNG as pixels, within limits.

use std::io::Cursor;

use anyhow::{Context, bail, ensure};
use png::{ColorType, Decoder, Limits, Transformations};

use crate::manifest::units::format_size;

/// Plots have less. All of it goes through the terminal, perhaps over a slow line.
const MOST_BYTES: usize = 16 << 20;
/// A plot of 13 by 13 inches at 300 dpi. They take four bytes each, here and in the terminal.
const MOST_PIXELS: u64 = 16 << 20;
/// What the decoder may take besides.
const SPARE_BYTES: usize = 16 << 20;

/// Pixels with their opacity.
pub struct Pixels {
    pub width: usize,
    pub height: usize,
    /// Four bytes each, row by row.
    pub rgba: Vec<u8>,
}

impl Pixels {
    /// Decode all of a PNG. Of one that moves, it is the first picture.
    pub fn decode(png: &[u8]) -> anyhow::Result<Self> {
        ensure!(png.len() <= MOST_BYTES, "it has more than {}", format_size(MOST_BYTES as u64));
        let mut decoder = Decoder::new_with_limits(Cursor::new(png), Limits { bytes: SPARE_BYTES });
        decoder.set_transformations(Transformations::normalize_to_color8() | Transformations::ALPHA);
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        let (width, height) = decoder.read_header_info().context("it is no PNG")?.size();
        ensure!(
            u64::from(width) * u64::from(height) <= MOST_PIXELS,
            "it says that it has {width} x {height} pixels, more than {MOST_PIXELS}"
        );
        let mut reader = decoder.read_info().context("it is a broken PNG")?;
        let mut data = vec![0; reader.output_buffer_size().context("it is too large")?];
        let frame = reader.next_frame(&mut data).context("it is a broken PNG")?;
        // One that was cut off behind its pixels was cut off.
        reader.finish().context("it is a broken PNG")?;
        let rgba = match frame.color_type {
            ColorType::Rgba => data,
            ColorType::GrayscaleAlpha => {
                data.as_chunks().0.iter().flat_map(|&[grey, opacity]| [grey, grey, grey, opacity]).collect()
            }
            other => bail!("its colours are {other:?}"),
        };
        let (width, height) = (frame.width as usize, frame.height as usize);
        ensure!(rgba.len() == width * height * 4, "its first picture is only a part of it");
        Ok(Self { width, height, rgba })
    }

    /// No wider and no higher than this, in its own proportions.
    pub fn shrunk(self, most_width: usize, most_height: usize) -> Self {
        if self.width <= most_width && self.height <= most_height {
            return self;
        }
        let scaled = |side: usize, to: usize, from: usize| ((side * to + from / 2) / from).max(1);
        let (mut width, mut height) = (most_width, scaled(self.height, most_width, self.width));
        if height > most_height {
            (width, height) = (scaled(self.width, most_height, self.height).min(most_width), most_height);
        }
        let mut rgba = Vec::with_capacity(width * height * 4);
        for row in 0..height {
            for column in 0..width {
                rgba.extend(self.mean(part(column, width, self.width), part(row, height, self.height)));
            }
        }
        Self { width, height, rgba }
    }

    /// The mean of a part. Thin lines are paler then, but all are there.
    fn mean(&self, columns: (usize, usize), rows: (usize, usize)) -> [u8; 4] {
        let mut sums = [0u64; 4];
        for row in rows.0..rows.1 {
            let pixels = &self.rgba[(row * self.width + columns.0) * 4..(row * self.width + columns.1) * 4];
            for &[red, green, blue, opacity] in pixels.as_chunks().0 {
                // What cannot be seen has no colour.
                for (sum, value) in sums.iter_mut().zip([red, green, blue]) {
                    *sum += u64::from(value) * u64::from(opacity);
                }
                sums[3] += u64::from(opacity);
            }
        }
        let count = ((columns.1 - columns.0) * (rows.1 - rows.0)) as u64;
        let colour = |sum: u64| (sum + sums[3] / 2).checked_div(sums[3]).unwrap_or(0) as u8;
        [colour(sums[0]), colour(sums[1]), colour(sums[2]), ((sums[3] + count / 2) / count) as u8]
    }
}

/// Where the `index`th of `count` parts of `whole` begins and ends; none is empty.
fn part(index: usize, count: usize, whole: usize) -> (usize, usize) {
    let begin = (index * whole / count).min(whole - 1);
    (begin, ((index + 1) * whole / count).max(begin + 1))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A PNG of these pixels.
    pub fn png(width: usize, height: usize, rgba: &[u8]) -> Vec<u8> {
        encoded(width, height, ColorType::Rgba, rgba)
    }

    /// Pixels of all colours, opaque.
    pub fn noise(width: usize, height: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..width * height).flat_map(|_| [random.u8(..), random.u8(..), random.u8(..), 255]).collect()
    }

    fn encoded(width: usize, height: usize, colours: ColorType, data: &[u8]) -> Vec<u8> {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, width as u32, height as u32);
        encoder.set_color(colours);
        encoder.write_header().and_then(|mut writer| writer.write_image_data(data)).expect("encoded");
        png
    }

    /// With other bytes in its header, whose sum is right again.
    fn announcing(width: u32, height: u32) -> Vec<u8> {
        let mut png = Vec::new();
        let _ = png::Encoder::new(&mut png, width, height).write_header().expect("encoded");
        png
    }

    #[track_caller]
    fn refused(png: &[u8], expected: &str) {
        let error = Pixels::decode(png).err().expect("it is refused");
        assert!(format!("{error:#}").starts_with(expected), "{error:#}");
    }

    #[test]
    fn pixels_come_back_whatever_they_were() {
        let rgba = noise(7, 5);
        assert_eq!(Pixels::decode(&png(7, 5, &rgba)).expect("decoded").rgba, rgba);
        let greys = encoded(2, 1, ColorType::Grayscale, &[0, 200]);
        assert_eq!(Pixels::decode(&greys).expect("decoded").rgba, [0, 0, 0, 255, 200, 200, 200, 255]);
        let rgb = encoded(2, 1, ColorType::Rgb, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(Pixels::decode(&rgb).expect("decoded").rgba, [1, 2, 3, 255, 4, 5, 6, 255]);
    }

    #[test]
    fn what_is_broken_or_huge_is_refused() {
        refused(b"", "it is no PNG");
        refused(b"<svg></svg>", "it is no PNG");
        refused(b"\xff\xd8\xff\xe0\0\x10JFIF\0", "it is no PNG");
        refused(&announcing(32_768, 32_768), "it says that it has 32768 x 32768 pixels, more than 16777216");
        refused(&announcing(0x7fff_ffff, 0x7fff_ffff), "it says that it has 2147483647 x 2147483647 pixels");
        refused(&vec![0; MOST_BYTES + 1], "it has more than 16 MiB");
        // As many as may be, but none is there.
        refused(&announcing(4096, 4096), "it is a broken PNG");
        let whole = png(9, 9, &noise(9, 9));
        for length in 0..whole.len() {
            assert!(Pixels::decode(&whole[..length]).is_err(), "{length} of {}", whole.len());
        }
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let mut broken = whole.clone();
            for _ in 0..random.usize(1..4) {
                let index = random.usize(..broken.len());
                broken[index] = random.u8(..);
            }
            // Whatever comes of it, it is no panic.
            let _ = Pixels::decode(&broken).map(|pixels| pixels.shrunk(4, 4));
        }
    }

    #[test]
    fn shrinking_keeps_proportions_and_colours() {
        let size = |width, height| {
            let pixels = Pixels { width, height, rgba: noise(width, height) }.shrunk(100, 50);
            assert_eq!(pixels.rgba.len(), pixels.width * pixels.height * 4);
            (pixels.width, pixels.height)
        };
        assert_eq!(size(100, 50), (100, 50));
        assert_eq!(size(200, 20), (100, 10));
        assert_eq!(size(30, 150), (10, 50));
        assert_eq!(size(101, 50), (100, 50));
        assert_eq!(size(101, 49), (100, 49));
        assert_eq!(size(1000, 506), (99, 50));
        assert_eq!(size(5000, 1), (100, 1));
        assert_eq!(size(1, 5000), (1, 50));
        // Black and white are grey; what is transparent adds no colour.
        let pixels = [0, 0, 0, 255, 255, 255, 255, 255, 200, 100, 50, 255, 9, 9, 9, 0];
        let pixels = Pixels { width: 4, height: 1, rgba: pixels.into() }.shrunk(2, 1);
        assert_eq!(pixels.rgba, [128, 128, 128, 255, 200, 100, 50, 128]);
    }
}
