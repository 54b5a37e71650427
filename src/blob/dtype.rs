//! What the elements of an array are.

use std::fmt;

use bytemuck::Pod;

/// The type of an array's elements, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dtype {
    /// `f64`.
    F64,
    /// `f32`.
    F32,
    /// `i64`.
    I64,
    /// `i32`.
    I32,
    /// `i16`.
    I16,
    /// `i8`.
    I8,
    /// `u64`.
    U64,
    /// `u32`.
    U32,
    /// `u16`.
    U16,
    /// `u8`.
    U8,
    /// A byte each, 0 or 1.
    Bool,
}

impl Dtype {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::F64,
        Self::F32,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
    ];

    /// As in messages: `f64`, `bool`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U16 => "u16",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// How many bytes an element has.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number that arrays are made of. Numbers of 64 bits may lose digits on their way through [`Element::from_f64`].
pub trait Element: Pod + private::Sealed {
    /// Its type in messages.
    const DTYPE: Dtype;
    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;
    /// The nearest number of this type.
    fn from_i64(value: i64) -> Self;
}

mod private {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($element:ty: $dtype:ident, $from_i64:expr;)*) => {
        $(impl private::Sealed for $element {}
        impl Element for $element {
            const DTYPE: Dtype = Dtype::$dtype;
            fn from_f64(value: f64) -> Self {
                // Beyond the ends it is the end, and not-a-number is 0.
                value as Self
            }
            fn from_i64(value: i64) -> Self {
                let from: fn(i64) -> Self = $from_i64;
                from(value)
            }
        })*
    };
}

macro_rules! nearest {
    ($element:ty) => {
        |value| <$element>::try_from(value).unwrap_or(if value < 0 { <$element>::MIN } else { <$element>::MAX })
    };
}

elements! {
    f64: F64, |value| value as f64;
    f32: F32, |value| value as f32;
    i64: I64, |value| value;
    i32: I32, nearest!(i32);
    i16: I16, nearest!(i16);
    i8: I8, nearest!(i8);
    u64: U64, nearest!(u64);
    u32: U32, nearest!(u32);
    u16: U16, nearest!(u16);
    u8: U8, nearest!(u8);
}
