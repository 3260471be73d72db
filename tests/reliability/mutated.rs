//! Checkpoints and settings that were damaged by chance or by intent.

use std::path::Path;
use std::sync::OnceLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sha2::{Digest, Sha256};
use wgan::checkpoint::Checkpoint;
use wgan::optimizers::OptimizerConfig;
use wgan::{Ema, Error, Lipschitz, TrainConfig};

use super::tiny::{self, State};

/// The bytes of a sound checkpoint.
fn sound() -> &'static [u8] {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let mut trainer = tiny::trainer(tiny::settings());
        trainer.fit_until(&tiny::data(), 3).unwrap();
        trainer.checkpoint().unwrap().write(&path).unwrap();
        std::fs::read(path).unwrap()
    })
}

#[derive(Debug, Clone)]
enum Damage {
    FlipBit(Index, u8),
    /// In the header, where most can go wrong.
    SetHeaderByte(Index, u8),
    SetByte(Index, u8),
    /// The header's own statement of its length.
    SetLength(u64),
    Cut(Index),
    Append(Vec<u8>),
    Insert(Index, Vec<u8>),
    /// Any number of bytes: the header's length is put right.
    Replace(&'static str, &'static str),
    Garbage(Vec<u8>),
}

fn header_len(file: &[u8]) -> usize {
    let length = file.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    usize::try_from(length).unwrap_or(0).min(file.len().saturating_sub(8))
}

impl Damage {
    fn apply(self, mut file: Vec<u8>) -> Vec<u8> {
        let len = file.len();
        match self {
            Self::FlipBit(at, bit) if len > 0 => file[at.index(len)] ^= 1 << bit,
            Self::SetHeaderByte(at, byte) if header_len(&file) > 0 => {
                let at = 8 + at.index(header_len(&file));
                file[at] = byte;
            }
            Self::SetByte(at, byte) if len > 0 => file[at.index(len)] = byte,
            Self::SetLength(length) if len >= 8 => file[..8].copy_from_slice(&length.to_le_bytes()),
            Self::Cut(at) => file.truncate(at.index(len + 1)),
            Self::Append(bytes) => file.extend(bytes),
            Self::Insert(at, bytes) => {
                let at = at.index(len + 1);
                file.splice(at..at, bytes);
            }
            Self::Replace(from, to) => {
                let end = 8 + header_len(&file);
                if len >= end
                    && end > 8
                    && let Some(at) = (file[8..end].windows(from.len()))
                        .position(|window| window == from.as_bytes())
                {
                    file.splice(8 + at..8 + at + from.len(), to.bytes());
                    let length = (end - 8 + to.len() - from.len()) as u64;
                    file[..8].copy_from_slice(&length.to_le_bytes());
                }
            }
            Self::Garbage(bytes) => file = bytes,
            _ => {}
        }
        file
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    let length = prop_oneof![any::<u64>(), 0u64..9000, select(vec![1 << 40, 1 << 63, u64::MAX])];
    let replace = select(vec![
        (r#"\"format_version\":1"#, r#"\"format_version\":2"#),
        (r#"\"format_version\":1"#, r#"\"format_version\":18446744073709551615"#),
        (r#"\"generator_steps\":3"#, r#"\"generator_steps\":18446744073709551615"#),
        (r#"\"critic_steps\":6"#, r#"\"critic_steps\":18446744073709551615"#),
        (r#"\"critic_steps\":6"#, r#"\"critic_steps\":-1"#),
        (r#"\"critic_steps\":6"#, r#"\"critic_steps\":1e300"#),
        (r#"\"seed\":9"#, r#"\"seed\":10"#),
        (r#"\"samples\":53"#, r#"\"samples\":0"#),
        (r#"\"config\":{"#, r#"\"config\":7,\"x\":{"#),
        ("generator.fc1.weight", "generator.fc9.weight"),
        ("generator.fc1.weight", "../../../../etc/passwd"),
        ("generator.fc1.weight", "generator.fc1.bias"),
        ("critic_optimizer.exp_avg.fc1.weight", "critic_optimizer.exp_avg.fc1.weighs"),
        ("critic_optimizer.step", "critic_optimizer.stop"),
        ("history.step", "history.stop"),
        ("history.penalty", "history.step"),
        (r#""U64","shape":[3]"#, r#""U64","shape":[3,1]"#),
        (r#""U64","shape":[3]"#, r#""F64","shape":[3]"#),
        (r#""F64","shape":[3]"#, r#""F64","shape":[1,3]"#),
        (r#""F64","shape":[3]"#, r#""F64","shape":[2305843009213693952]"#),
        (r#""F64","shape":[3]"#, r#""C64","shape":[3]"#),
        (r#""F32","shape":[5,2]"#, r#""F32","shape":[2,5]"#),
        (r#""F32","shape":[5,2]"#, r#""I32","shape":[5,2]"#),
        (r#""F32","shape":[5,2]"#, r#""F4","shape":[20,4]"#),
        (r#""U8","shape":[32]"#, r#""U8","shape":[4,8]"#),
        (r#""U8","shape":[32]"#, r#""F8_E4M3","shape":[32]"#),
        ("__metadata__", "__metadatum_"),
        ("\"checksum\"", "\"checkers\""),
        ("data_offsets", "data_offsetz"),
        ("\"shape\":", "\"shape\":[],\"shape\":"),
    ]);
    prop_oneof![
        3 => (index(), 0u8..8).prop_map(|(at, bit)| Damage::FlipBit(at, bit)),
        3 => (index(), any::<u8>()).prop_map(|(at, byte)| Damage::SetHeaderByte(at, byte)),
        3 => (index(), any::<u8>()).prop_map(|(at, byte)| Damage::SetByte(at, byte)),
        1 => length.prop_map(Damage::SetLength),
        2 => index().prop_map(Damage::Cut),
        1 => vec(any::<u8>(), 0..20).prop_map(Damage::Append),
        1 => (index(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        8 => replace.prop_map(|(from, to)| Damage::Replace(from, to)),
        1 => vec(any::<u8>(), 0..200).prop_map(Damage::Garbage),
    ]
}

/// Makes the checksum right again, as one would who alters a file by intent.
fn forge(file: &mut [u8]) {
    if let Some(end) = file.len().checked_sub(32) {
        let digest = Sha256::digest(&file[..end]);
        file[end..].copy_from_slice(&digest);
    }
}

/// Restores from such a file and holds the outcome to be all or nothing.
fn restore(folder: &Path, bytes: &[u8]) -> Result<(), TestCaseError> {
    let path = folder.join("damaged.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let mut trainer = tiny::trainer(tiny::settings());
    let before = State::of(&trainer);
    match trainer.restore(&path) {
        Err(error) => {
            prop_assert!(
                matches!(error, Error::Format { .. } | Error::OtherRun { .. }),
                "{:?}",
                error
            );
            prop_assert!(error.to_string().contains("damaged.safetensors"), "{}", error);
            prop_assert_eq!(State::of(&trainer).difference(&before), None, "{}", error);
        }
        // Whoever can write checksums can write checkpoints: it holds what it says, and the run goes on from it.
        Ok(()) => {
            let read = Checkpoint::read(&path).unwrap();
            let mut held = State::of(&trainer);
            held.tensors.remove("samples");
            let mut written = State::in_checkpoint(&read);
            // Those of the models as they are here, to within rounding.
            for name in ["probe.samples", "probe.scores"] {
                held.tensors.remove(name);
                written.tensors.remove(name);
            }
            prop_assert_eq!(held.difference(&written), None);
            let total = trainer.steps().saturating_add(1);
            if let Err(error) = trainer.fit_until(&tiny::data(), total) {
                prop_assert!(
                    matches!(error, Error::NonFinite { .. } | Error::OtherRun { .. }),
                    "{:?}",
                    error
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_altered_checkpoint_is_refused(damages in vec(damage(), 1..4)) {
        let folder = tempfile::tempdir().unwrap();
        let bytes = damages.into_iter().fold(sound().to_vec(), |file, damage| damage.apply(file));
        let path = folder.path().join("damaged.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert_eq!(Checkpoint::read(&path).is_ok(), bytes == sound());
        restore(folder.path(), &bytes)?;
    }

    #[test]
    fn one_with_a_forged_checksum_is_refused_or_taken_whole(damages in vec(damage(), 1..4)) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes =
            damages.into_iter().fold(sound().to_vec(), |file, damage| damage.apply(file));
        forge(&mut bytes);
        restore(folder.path(), &bytes)?;
    }
}

/// Cut anywhere, with or without a checksum that fits, a file is never taken.
#[test]
fn a_cut_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.safetensors");
    for length in (0..sound().len()).step_by(7) {
        for forged in [false, true] {
            let mut bytes = sound()[..length].to_vec();
            if forged {
                forge(&mut bytes);
            }
            std::fs::write(&path, &bytes).unwrap();
            let error = Checkpoint::read(&path).unwrap_err();
            assert!(matches!(&error, Error::Format { .. }), "{length}: {error}");
        }
    }
    std::fs::write(&path, sound()).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap().step(), 3);
}

fn settings() -> Vec<String> {
    let all = [
        TrainConfig { ema: Some(Ema::new(0.99)), ..TrainConfig::wgan_gp() },
        TrainConfig {
            critic_optimizer: OptimizerConfig::adam(1e-4, 0.5, 0.9),
            lipschitz: Lipschitz::divergence_tutorials(),
            ..TrainConfig::wgan()
        },
        serde_json::from_str(
            r#"{"n_critic_schedule": {"schedule": "authors_code"}, "stop": {"patience": 5, "seconds": 9.5},
                "generator_updates": {"schedule": {"schedule": "linear", "until": 5}}}"#,
        )
        .unwrap(),
    ];
    all.iter().map(|config| serde_json::to_string_pretty(config).unwrap()).collect()
}

#[derive(Debug, Clone)]
enum Edit {
    Byte(Index, u8),
    Cut(Index),
    Insert(Index, &'static str),
    /// In place of the value at a colon.
    Value(Index, &'static str),
    /// A part of the file once more.
    Double(Index, Index),
}

impl Edit {
    fn apply(self, mut text: Vec<u8>) -> Vec<u8> {
        let len = text.len();
        match self {
            Self::Byte(at, byte) if len > 0 => text[at.index(len)] = byte,
            Self::Cut(at) => text.truncate(at.index(len + 1)),
            Self::Insert(at, part) => {
                let at = at.index(len + 1);
                text.splice(at..at, part.bytes());
            }
            Self::Value(at, value) => {
                let colons: Vec<usize> = (0..len).filter(|&i| text[i] == b':').collect();
                if !colons.is_empty() {
                    let start = colons[at.index(colons.len())] + 1;
                    let rest = text[start..].iter().position(|byte| b",}\n".contains(byte));
                    text.splice(start..start + rest.unwrap_or(0), value.bytes());
                }
            }
            Self::Double(from, to) => {
                let (from, to) = (from.index(len + 1), to.index(len + 1));
                let part = text[from.min(to)..from.max(to)].to_vec();
                text.splice(from..from, part);
            }
            Self::Byte(..) => {}
        }
        text
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    let value = select(vec![
        "0",
        "-1",
        "-0.0",
        "1e999",
        "-1e308",
        "18446744073709551616",
        "9007199254740993",
        "null",
        "true",
        "\"x\"",
        "[]",
        "{}",
        "[[[[",
        "NaN",
        "\"\\ud800\"",
        "0.999999999999",
        "3",
    ]);
    let part =
        select(vec!["{", "}", "[", "]", ",", ":", "\"", "\\", "0", "\"seed\": 1,", "\u{feff}"]);
    prop_oneof![
        2 => (index(), any::<u8>()).prop_map(|(at, byte)| Edit::Byte(at, byte)),
        1 => index().prop_map(Edit::Cut),
        1 => (index(), part).prop_map(|(at, part)| Edit::Insert(at, part)),
        6 => (index(), value).prop_map(|(at, value)| Edit::Value(at, value)),
        1 => (index(), index()).prop_map(|(from, to)| Edit::Double(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Either an error with the file's name, or settings in their ranges, which a trainer takes and which read back.
    #[test]
    fn damaged_settings_are_refused_or_sound(base in select(settings()), edits in vec(edit(), 1..4)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = edits.into_iter().fold(base.into_bytes(), |text, edit| edit.apply(text));
        std::fs::write(file.path(), &text).unwrap();
        match TrainConfig::load(file.path()) {
            Err(error) => {
                prop_assert!(matches!(error, Error::Format { .. }), "{:?}", error);
                prop_assert!(error.to_string().starts_with(file.path().to_str().unwrap()));
            }
            Ok(config) => {
                prop_assert!(config.check().is_ok());
                let again = serde_json::to_vec(&config).unwrap();
                std::fs::write(file.path(), &again).unwrap();
                prop_assert_eq!(&TrainConfig::load(file.path()).unwrap(), &config);
                let trainer = tiny::trainer(config);
                prop_assert_eq!(trainer.steps(), 0);
            }
        }
    }
}

/// As deep as a file can be.
#[test]
fn settings_nested_without_end_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for open in ["[", "{\"a\":", "{\"lipschitz\":"] {
        std::fs::write(file.path(), open.repeat(50_000)).unwrap();
        assert!(matches!(TrainConfig::load(file.path()), Err(Error::Format { .. })));
    }
}
