//! Arrays as the application has them.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Value, json};

use crate::blob::{
    BlobError, Dtype, Element, Pool, SMALLEST_BYTES, list,
    object::{Content, Description, KEY, Object, Written, decode},
    parcel,
    pool::{Blob, Unfinished},
    text::live,
};

// What is in files is little endian, and is not turned around.
const _: () = assert!(cfg!(target_endian = "little"), "arrays need a little endian machine");

/// An array of numbers, or bytes, that travels by reference. Cheap to clone.
///
/// Give it away wherever a value goes: as an argument, in an event's data, in any type of your own that serde writes.
/// Plugins get their language's own array. Ask for it as a type to get one back. From 64 KiB on it is a file in memory,
/// which is gone when nobody holds the array any more.
///
/// ```no_run
/// # async fn example(host: kernelbridge::host::Host) -> Result<(), Box<dyn std::error::Error>> {
/// use kernelbridge::blob::Array;
///
/// let numbers = vec![1.0; 1_000_000];
/// let sum: f64 = host.call("stats.sum", (Array::from(&numbers[..]),)).await?;
/// let sorted: Array = host.call("stats.sort", (Array::new(&numbers, &[1000, 1000])?,)).await?;
/// let sorted: &[f64] = sorted.as_slice()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Array(Data);

#[derive(Clone)]
enum Data {
    File(Arc<Blob>),
    Memory(Arc<(Description, Words)>),
    Refused(Arc<BlobError>),
}

impl Array {
    /// An array of that shape, the last dimension the closest together (C order).
    ///
    /// # Errors
    ///
    /// [`BlobError::Size`] when it has another number of elements, [`BlobError::Full`], [`BlobError::File`].
    pub fn new<T: Element>(elements: &[T], shape: &[usize]) -> Result<Self, BlobError> {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        Self::of(Description::checked(T::DTYPE, shape, bytes.len() as u64)?, bytes)
    }

    /// Bytes, which plugins get as their language's own kind of bytes.
    ///
    /// # Errors
    ///
    /// [`BlobError::Full`], [`BlobError::File`].
    pub fn bytes(bytes: &[u8]) -> Result<Self, BlobError> {
        Self::of(Description::bytes(bytes.len()), bytes)
    }

    /// Bytes that are a file, however few they are: for those to whom base64 is a burden.
    pub(crate) fn file(bytes: &[u8]) -> Result<Self, BlobError> {
        Ok(Self(Data::File(Pool::get()?.write(Description::bytes(bytes.len()), bytes)?)))
    }

    fn of(description: Description, bytes: &[u8]) -> Result<Self, BlobError> {
        if bytes.len() < SMALLEST_BYTES {
            return Ok(Self(Data::Memory(Arc::new((description, Words::copy(bytes))))));
        }
        Ok(Self(Data::File(Pool::get()?.write(description, bytes)?)))
    }

    fn parts(&self) -> Result<(&Description, &[u8]), BlobError> {
        match &self.0 {
            Data::File(blob) => Ok((&blob.description, blob.bytes())),
            Data::Memory(memory) => Ok((&memory.0, memory.1.bytes())),
            Data::Refused(error) => Err(BlobError::Refused(error.to_string())),
        }
    }

    /// What its elements are; `u8` of bytes.
    pub fn dtype(&self) -> Dtype {
        self.parts().map_or(Dtype::U8, |(description, _)| description.dtype)
    }

    /// Its lengths, one for each dimension.
    pub fn shape(&self) -> &[usize] {
        self.parts().map_or(&[0], |(description, _)| &description.shape)
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is it bytes, and not an array of numbers?
    pub fn is_bytes(&self) -> bool {
        self.parts().is_ok_and(|(description, _)| description.is_bytes)
    }

    /// Its elements, where they lie.
    ///
    /// # Errors
    ///
    /// [`BlobError::Type`] when they are of another type, [`BlobError::Refused`] when it could not be made.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], BlobError> {
        let (description, bytes) = self.parts()?;
        let wrong = BlobError::Type { found: description.dtype, wanted: T::DTYPE };
        if description.dtype != T::DTYPE {
            return Err(wrong);
        }
        // Files are mapped at pages and memory is made of words, so it is aligned.
        bytemuck::try_cast_slice(bytes).map_err(|_| wrong)
    }

    /// All its bytes, whatever they mean.
    ///
    /// # Errors
    ///
    /// [`BlobError::Refused`] when it could not be made.
    pub fn as_bytes(&self) -> Result<&[u8], BlobError> {
        Ok(self.parts()?.1)
    }

    /// A copy of its elements, each the nearest number of the type that is asked for.
    ///
    /// # Errors
    ///
    /// [`BlobError::Refused`] when it could not be made.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, BlobError> {
        let floats = |floats: &mut dyn Iterator<Item = f64>| Ok(floats.map(T::from_f64).collect());
        let integers = |integers: &mut dyn Iterator<Item = i64>| Ok(integers.map(T::from_i64).collect());
        match self.parts()?.0.dtype {
            dtype if dtype == T::DTYPE => Ok(self.as_slice::<T>()?.to_vec()),
            Dtype::F64 => floats(&mut self.as_slice::<f64>()?.iter().copied()),
            Dtype::F32 => floats(&mut self.as_slice::<f32>()?.iter().map(|&number| number.into())),
            Dtype::I64 => integers(&mut self.as_slice::<i64>()?.iter().copied()),
            Dtype::I32 => integers(&mut self.as_slice::<i32>()?.iter().map(|&number| number.into())),
            Dtype::I16 => integers(&mut self.as_slice::<i16>()?.iter().map(|&number| number.into())),
            Dtype::I8 => integers(&mut self.as_slice::<i8>()?.iter().map(|&number| number.into())),
            Dtype::U64 => floats(&mut self.as_slice::<u64>()?.iter().map(|&number| number as f64)),
            Dtype::U32 => integers(&mut self.as_slice::<u32>()?.iter().map(|&number| number.into())),
            Dtype::U16 => integers(&mut self.as_slice::<u16>()?.iter().map(|&number| number.into())),
            Dtype::U8 | Dtype::Bool => integers(&mut self.as_bytes()?.iter().map(|&number| number.into())),
        }
    }
}

/// One dimension. If it cannot be made, whoever sends or reads it is told why.
impl<T: Element> From<&[T]> for Array {
    fn from(elements: &[T]) -> Self {
        Self::new(elements, &[elements.len()]).unwrap_or_else(|error| Self(Data::Refused(Arc::new(error))))
    }
}

impl<T: Element> From<&Vec<T>> for Array {
    fn from(elements: &Vec<T>) -> Self {
        Self::from(&elements[..])
    }
}

impl<T: Element> From<Vec<T>> for Array {
    fn from(elements: Vec<T>) -> Self {
        Self::from(&elements[..])
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Ok((Description { dtype, shape, .. }, _)) => write!(f, "Array({dtype} {shape:?})"),
            Err(error) => write!(f, "Array({error})"),
        }
    }
}

impl PartialEq for Array {
    /// Bit by bit, and of the same type and shape.
    fn eq(&self, other: &Self) -> bool {
        matches!((self.parts(), other.parts()), (Ok(one), Ok(other)) if one == other)
    }
}

impl Serialize for Array {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Data::File(blob) => Written::named(blob.path().to_string_lossy(), &blob.description).serialize(serializer),
            Data::Memory(memory) if memory.0.is_bytes => {
                json!({ "$bytes": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, memory.1.bytes()) })
                    .serialize(serializer)
            }
            Data::Memory(memory) => Written::inline(memory.1.bytes(), &memory.0).serialize(serializer),
            Data::Refused(error) => Err(ser::Error::custom(error)),
        }
    }
}

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.get(KEY).is_none() {
            // A short list is sent as one.
            let (description, bytes) = list::read(&value).map_err(de::Error::custom)?;
            return Self::of(description, &bytes).map_err(de::Error::custom);
        }
        let text = value.to_string();
        Object::parse(&text).and_then(|(object, _)| Self::named(&object)).map_err(de::Error::custom)
    }
}

impl Array {
    fn named(object: &Object<'_>) -> Result<Self, BlobError> {
        parcel::taken();
        match &object.content {
            Content::Name(name) => live(name, object).map(|blob| Self(Data::File(blob))),
            Content::Chunks(chunks) => {
                let bytes = decode(chunks)?;
                Self::of(object.description(bytes.len() as u64)?, &bytes)
            }
        }
    }
}

/// An array that is filled where it will lie, so that nothing is copied. All zero at first.
///
/// ```no_run
/// # use kernelbridge::blob::{Array, ArrayMut};
/// let mut table = ArrayMut::<f64>::zeroed(&[1000, 1000])?;
/// table[0] = 1.0;
/// let table: Array = table.finish()?;
/// # Ok::<_, kernelbridge::blob::BlobError>(())
/// ```
#[derive(Debug)]
pub struct ArrayMut<T> {
    description: Description,
    room: Room,
    elements: std::marker::PhantomData<T>,
}

#[derive(Debug)]
enum Room {
    File(Unfinished),
    Memory(Words),
}

impl<T: Element> ArrayMut<T> {
    /// An array of that shape.
    ///
    /// # Errors
    ///
    /// [`BlobError::Full`], [`BlobError::File`] when there is no room for it.
    pub fn zeroed(shape: &[usize]) -> Result<Self, BlobError> {
        let size = shape.iter().try_fold(T::DTYPE.size_bytes(), |size, length| size.checked_mul(*length));
        let size_bytes = size.unwrap_or(usize::MAX);
        let description = Description::checked(T::DTYPE, shape, size_bytes as u64)?;
        let room = if size_bytes < SMALLEST_BYTES {
            Room::Memory(Words::zeroed(size_bytes))
        } else {
            Room::File(Pool::get()?.reserve(size_bytes as u64)?)
        };
        Ok(Self { description, room, elements: std::marker::PhantomData })
    }

    /// It is filled.
    ///
    /// # Errors
    ///
    /// [`BlobError::File`] when the system does not let it be protected.
    pub fn finish(self) -> Result<Array, BlobError> {
        Ok(Array(match self.room {
            Room::File(unfinished) => Data::File(unfinished.finish(self.description)?),
            Room::Memory(words) => Data::Memory(Arc::new((self.description, words))),
        }))
    }
}

impl<T: Element> Deref for ArrayMut<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes = match &self.room {
            Room::File(unfinished) => &unfinished.map[..],
            Room::Memory(words) => words.bytes(),
        };
        // Aligned, see `Array::as_slice`.
        bytemuck::try_cast_slice(bytes).unwrap_or_default()
    }
}

impl<T: Element> DerefMut for ArrayMut<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = match &mut self.room {
            Room::File(unfinished) => &mut unfinished.map[..],
            Room::Memory(words) => words.bytes_mut(),
        };
        bytemuck::try_cast_slice_mut(bytes).unwrap_or_default()
    }
}

/// Bytes that are aligned for any element.
#[derive(Debug)]
struct Words {
    words: Vec<u64>,
    size_bytes: usize,
}

impl Words {
    fn zeroed(size_bytes: usize) -> Self {
        Self { words: vec![0; size_bytes.div_ceil(8)], size_bytes }
    }

    fn copy(bytes: &[u8]) -> Self {
        let mut words = Self::zeroed(bytes.len());
        words.bytes_mut().copy_from_slice(bytes);
        words
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.size_bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.size_bytes]
    }
}
