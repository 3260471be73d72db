//! The IDX reader against files that were damaged or made to harm.
#![cfg(feature = "idx")]

use std::io::Write;
use std::time::{Duration, Instant};

use flate2::{Compression, write::GzEncoder};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use wgan::Error;
use wgan::data::idx::read_idx;

/// Far above what any file here takes, far below what an honoured promise of terabytes would.
const PATIENCE: Duration = Duration::from_secs(5);

/// Dimensions and data.
type Array = (Vec<usize>, Vec<u8>);

#[derive(Debug, Clone)]
enum Damage {
    FlipBit(Index, u8),
    SetByte(Index, u8),
    /// Replaces a whole dimension of the header.
    SetDim(Index, u32),
    Cut(Index),
    Append(Vec<u8>),
    Insert(Index, Vec<u8>),
    /// The file twice, one after the other.
    Double,
    Pack,
}

impl Damage {
    fn apply(self, mut file: Vec<u8>) -> Vec<u8> {
        let len = file.len();
        match self {
            Self::FlipBit(at, bit) if len > 0 => file[at.index(len)] ^= 1 << bit,
            Self::SetByte(at, byte) if len > 0 => file[at.index(len)] = byte,
            Self::SetDim(at, dim) if len >= 16 => {
                let start = 4 + 4 * at.index(3);
                file[start..start + 4].copy_from_slice(&dim.to_be_bytes());
            }
            Self::Cut(at) => file.truncate(at.index(len + 1)),
            Self::Append(bytes) => file.extend(bytes),
            Self::Insert(at, bytes) => {
                let at = at.index(len + 1);
                file.splice(at..at, bytes);
            }
            Self::Double => file.extend_from_within(..),
            Self::Pack => file = gzip(&file),
            Self::FlipBit(..) | Self::SetByte(..) | Self::SetDim(..) => {}
        }
        file
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    let dim = prop_oneof![any::<u32>(), 0u32..20, select(vec![1 << 20, 1 << 31, u32::MAX])];
    prop_oneof![
        (index(), 0u8..8).prop_map(|(at, bit)| Damage::FlipBit(at, bit)),
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::SetByte(at, byte)),
        (index(), dim).prop_map(|(at, dim)| Damage::SetDim(at, dim)),
        index().prop_map(Damage::Cut),
        vec(any::<u8>(), 1..40).prop_map(Damage::Append),
        (index(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        Just(Damage::Double),
        Just(Damage::Pack),
    ]
}

/// What a sound file of three dimensions holds.
fn sound() -> impl Strategy<Value = Array> {
    (0usize..6, 0usize..6, 0usize..6).prop_flat_map(|(images, height, width)| {
        let dims = vec![images, height, width];
        (Just(dims), vec(any::<u8>(), images * height * width))
    })
}

fn idx(dims: &[usize], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|&dim| bytes.extend((dim as u32).to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// Reads such a file, and holds the reader to its contract whatever the outcome.
fn read(bytes: &[u8]) -> Result<Option<Array>, TestCaseError> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), bytes)?;
    let start = Instant::now();
    let outcome = read_idx(file.path());
    prop_assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    match outcome {
        Ok(array) => {
            prop_assert!(!array.dims.is_empty());
            prop_assert_eq!(array.dims.iter().product::<usize>(), array.data.len());
            // Deflate packs a thousandfold at most: nothing was made up from a promise.
            prop_assert!(array.data.len() <= 1100 * bytes.len());
            Ok(Some((array.dims, array.data)))
        }
        Err(Error::Format { path, problem }) => {
            prop_assert_eq!(&path, file.path());
            prop_assert!(problem.contains("expected"), "{}", problem);
            Ok(None)
        }
        Err(other) => Err(TestCaseError::fail(format!("expected a format error, got {other:?}"))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_sound_file_reads_as_written((dims, data) in sound(), packed: bool) {
        let plain = idx(&dims, &data);
        let file = if packed { gzip(&plain) } else { plain };
        prop_assert_eq!(read(&file)?, Some((dims, data)));
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(
        (dims, data) in sound(), packed: bool, damages in vec(damage(), 1..5)
    ) {
        let plain = idx(&dims, &data);
        let file = if packed { gzip(&plain) } else { plain };
        read(&damages.into_iter().fold(file, |file, damage| damage.apply(file)))?;
    }

    /// Cut or lengthened, a file never passes for a sound one.
    #[test]
    fn a_wrong_length_is_always_refused(
        (dims, data) in sound(), packed: bool, cut: Index, tail in vec(any::<u8>(), 1..40)
    ) {
        let plain = idx(&dims, &data);
        let file = if packed { gzip(&plain) } else { plain };
        prop_assert_eq!(read(&file[..cut.index(file.len())])?, None);
        prop_assert_eq!(read(&[file, tail].concat())?, None);
    }

    #[test]
    fn a_damaged_header_inside_sound_gzip_is_read_or_refused(
        (dims, data) in sound(), damages in vec(damage(), 1..4)
    ) {
        let plain = damages.into_iter().fold(idx(&dims, &data), |file, damage| damage.apply(file));
        read(&gzip(&plain))?;
    }

    #[test]
    fn random_bytes_are_read_or_refused(
        start in select(vec![
            &[][..], &[0x1f, 0x8b], &[0x1f, 0x8b, 8, 0], &[0, 0, 8], &[0, 0, 8, 1], &[0, 0, 8, 255]
        ]),
        rest in vec(any::<u8>(), 0..400)
    ) {
        read(&[start, &rest].concat())?;
    }
}
