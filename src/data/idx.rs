//! Reader of IDX, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST.
//!
//! An IDX file is two zero bytes, a byte for the type of its elements, a byte for the number of its
//! dimensions, each dimension as a big-endian `u32`, then the elements in row-major order.

use std::fs::File;
use std::io::{BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const UNSIGNED_BYTE: u8 = 0x08;

/// An array of bytes of any number of dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdxArray {
    /// The size of each dimension, the slowest first; at least one.
    pub dims: Vec<usize>,
    /// The elements in row-major order, as many as the product of `dims`.
    pub data: Vec<u8>,
}

/// Reads an IDX file of unsigned bytes, plain or packed with gzip, whatever its name.
///
/// The file is not trusted: memory grows with the bytes that really come, and reading stops at the
/// first byte beyond those that the header promises.
///
/// ```
/// use wgan::data::idx::read_idx;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("labels");
/// std::fs::write(&path, [0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4])?;
/// let labels = read_idx(&path)?;
/// assert_eq!((labels.dims, labels.data), (vec![3], vec![5, 0, 4]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened or read; [`Error::Format`] if it is no whole IDX file
/// of unsigned bytes, holds more than its header promises, or is damaged where it is packed.
pub fn read_idx(path: impl AsRef<Path>) -> Result<IdxArray> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(|e| Error::io(path, "opening the file", e))?;
    let magic = read_at_most(path, &mut file, GZIP_MAGIC.len() as u64)?;
    let packed = magic == GZIP_MAGIC;
    let whole = Cursor::new(magic).chain(file);
    if packed {
        parse(path, MultiGzDecoder::new(whole))
    } else {
        parse(path, BufReader::new(whole))
    }
}

fn parse(path: &Path, mut source: impl Read) -> Result<IdxArray> {
    let wrong = |problem: String| Error::Format { path: path.into(), problem };

    let head = read_at_most(path, &mut source, 4)?;
    let &[zero, also_zero, kind, rank] = head.as_slice() else {
        let found = head.len();
        return Err(wrong(format!(
            "ends after {found} bytes; expected an IDX header of 4 or more"
        )));
    };
    if [zero, also_zero] != [0, 0] {
        return Err(wrong(format!(
            "starts with the bytes {zero:02x} {also_zero:02x}; expected 00 00, as in an IDX file"
        )));
    }
    if kind != UNSIGNED_BYTE {
        let name = type_name(kind);
        return Err(wrong(format!(
            "holds elements of type {kind:#04x} ({name}); \
             expected {UNSIGNED_BYTE:#04x} (unsigned byte)"
        )));
    }
    if rank == 0 {
        return Err(wrong("has 0 dimensions; expected at least 1".into()));
    }

    let header_len = 4 * u64::from(rank);
    let header = read_at_most(path, &mut source, header_len)?;
    if (header.len() as u64) < header_len {
        return Err(wrong(format!(
            "ends after {} bytes of its list of {rank} dimensions; expected {header_len}",
            header.len()
        )));
    }
    let (sizes, _) = header.as_chunks();
    let dims: Vec<usize> = sizes.iter().map(|&size| u32::from_be_bytes(size) as usize).collect();
    let promised = dims.iter().try_fold(1, |product: usize, &dim| product.checked_mul(dim));
    let promised = promised.ok_or_else(|| {
        wrong(format!("has dimensions {dims:?}; expected a product below 2^{}", usize::BITS))
    })?;

    // The byte beyond the promised ones shows whether the file ends there, and makes the gzip
    // reader compare its checksum.
    let data = read_at_most(path, &mut source, (promised as u64).saturating_add(1))?;
    if data.len() == promised {
        return Ok(IdxArray { dims, data });
    }
    let found = if data.len() < promised { format!("{} bytes", data.len()) } else { "more".into() };
    Err(wrong(format!(
        "holds {found} after its header; expected {promised} bytes for the dimensions {dims:?}"
    )))
}

/// Reads up to `limit` bytes: fewer only where the source ends.
fn read_at_most(path: &Path, source: &mut impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let outcome = source.take(limit).read_to_end(&mut bytes);
    outcome.map_err(|e| match e.kind() {
        // The kinds in which the gzip reader reports what it cannot unpack.
        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
            let problem = format!("is damaged ({e}); expected a whole gzip file");
            Error::Format { path: path.into(), problem }
        }
        _ => Error::io(path, "reading the file", e),
    })?;
    Ok(bytes)
}

fn type_name(kind: u8) -> &'static str {
    match kind {
        0x09 => "signed byte",
        0x0b => "16-bit integer",
        0x0c => "32-bit integer",
        0x0d => "32-bit float",
        0x0e => "64-bit float",
        _ => "unknown to IDX",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn header(dims: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
        bytes
    }

    fn small() -> Vec<u8> {
        [header(&[2, 3]), vec![1, 2, 3, 4, 5, 6]].concat()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).expect("writing to memory");
        encoder.finish().expect("writing to memory")
    }

    fn read(bytes: &[u8]) -> Result<IdxArray> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("writing the temporary file");
        read_idx(file.path())
    }

    /// What the error says is wrong with such a file.
    fn problem(bytes: &[u8]) -> String {
        match read(bytes) {
            Err(Error::Format { problem, .. }) => problem,
            other => panic!("expected a format error, got {other:?}"),
        }
    }

    #[test]
    fn plain_and_packed_files_read_the_same() -> Result<()> {
        let expected = IdxArray { dims: vec![2, 3], data: vec![1, 2, 3, 4, 5, 6] };
        assert_eq!(read(&small())?, expected);
        assert_eq!(read(&gzip(&small()))?, expected);
        // A gzip file may be several, one after the other, split anywhere.
        for split in 0..small().len() {
            let members = [gzip(&small()[..split]), gzip(&small()[split..])].concat();
            assert_eq!(read(&members)?, expected, "split at {split}");
        }
        Ok(())
    }

    #[test]
    fn a_dimension_of_zero_is_an_empty_array() -> Result<()> {
        assert_eq!(read(&header(&[0, 28, 28]))?, IdxArray { dims: vec![0, 28, 28], data: vec![] });
        Ok(())
    }

    #[test]
    fn a_header_that_is_not_idx_is_named() {
        assert_eq!(problem(b""), "ends after 0 bytes; expected an IDX header of 4 or more");
        assert_eq!(problem(&[0, 0, 8]), "ends after 3 bytes; expected an IDX header of 4 or more");
        let png = problem(b"\x89PNG\r\n\x1a\n");
        assert_eq!(png, "starts with the bytes 89 50; expected 00 00, as in an IDX file");
        assert_eq!(problem(&[0, 0, 8, 0, 7]), "has 0 dimensions; expected at least 1");
        let float = problem(&[0, 0, 0x0d, 1, 0, 0, 0, 0]);
        assert_eq!(
            float,
            "holds elements of type 0x0d (32-bit float); expected 0x08 (unsigned byte)"
        );
        assert!(problem(&[0, 0, 7, 1, 0, 0, 0, 0]).contains("0x07 (unknown to IDX)"));
        assert_eq!(
            problem(&header(&[2, 3])[..9]),
            "ends after 5 bytes of its list of 2 dimensions; expected 8"
        );
    }

    #[test]
    fn data_must_end_where_the_header_says() {
        let whole = small();
        let short = "holds 5 bytes after its header; expected 6 bytes for the dimensions [2, 3]";
        let long = "holds more after its header; expected 6 bytes for the dimensions [2, 3]";
        assert_eq!(problem(&whole[..whole.len() - 1]), short);
        assert_eq!(problem(&gzip(&whole[..whole.len() - 1])), short);
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(problem(&longer), long);
        assert_eq!(problem(&gzip(&longer)), long);
        assert_eq!(problem(&[gzip(&whole), gzip(&[0])].concat()), long);
    }

    #[test]
    fn a_promise_is_not_memory() {
        // 2^40 bytes, the whole address space, and more than that.
        let promised = problem(&[header(&[1 << 20, 1 << 20]), vec![1, 2, 3]].concat());
        assert!(promised.starts_with("holds 3 bytes after its header"), "{promised}");
        let all = [header(&[u32::MAX, u32::MAX, 1]), vec![1]].concat();
        assert!(problem(&all).starts_with("holds 1 bytes after its header"));
        let overflow = problem(&[header(&[u32::MAX; 255]), vec![1]].concat());
        assert!(overflow.contains("expected a product below 2^"), "{overflow}");
    }

    #[test]
    fn a_bomb_stops_at_the_promised_size() {
        let bomb = [header(&[10]), vec![0; 64 << 20]].concat();
        let mut read_on = Cursor::new(bomb);
        let error = parse(Path::new("bomb"), &mut read_on).expect_err("more than promised");
        assert!(error.to_string().contains("holds more after its header"), "{error}");
        assert_eq!(read_on.position(), 8 + 10 + 1);
        assert!(problem(&gzip(read_on.get_ref())).contains("holds more after its header"));
    }

    #[test]
    fn many_empty_gzip_members_are_no_trouble() -> Result<()> {
        let padded = [gzip(&[]).repeat(50_000), gzip(&small())].concat();
        assert_eq!(read(&padded)?.dims, [2, 3]);
        Ok(())
    }

    #[test]
    fn damage_to_a_packed_file_is_found() {
        let packed = gzip(&small());
        for len in 2..packed.len() {
            let problem = problem(&packed[..len]);
            assert!(problem.starts_with("is damaged"), "cut to {len} bytes: {problem}");
        }
        // The last eight bytes are the checksum and the length.
        for at in packed.len() - 8..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 1;
            let problem = problem(&damaged);
            assert!(problem.starts_with("is damaged"), "byte {at}: {problem}");
        }
        assert!(problem(&[&packed[..], b"and more"].concat()).starts_with("is damaged"));
    }

    #[test]
    fn a_path_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let absent = read_idx(folder.path().join("absent")).expect_err("no such file");
        assert!(matches!(&absent, Error::Io { path, .. } if path.ends_with("absent")), "{absent}");
        assert!(matches!(read_idx(folder.path()), Err(Error::Io { .. })));
    }
}
