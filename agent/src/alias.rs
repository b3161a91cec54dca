//! A device's `modalias` against the patterns of `modules.alias`: shell wildcards, where `-`
//! and `_` are the same letter.

/// Whether `pattern` (with `*`, `?` and `[a-z]`) is all of `name`.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    fits_bytes(pattern.as_bytes(), name.as_bytes())
}

fn fits_bytes(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: one byte more for the star.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, seen));
            at += 1;
            continue;
        }
        let step = name.get(seen).and_then(|byte| fits_one(&pattern[at..], *byte));
        match (step, star) {
            (Some(length), _) => (at, seen) = (at + length, seen + 1),
            (None, _) if at == pattern.len() && seen == name.len() => return true,
            (None, Some((after, taken))) if taken < name.len() => {
                (at, seen) = (after, taken + 1);
                star = Some((after, taken + 1));
            }
            (None, _) => return false,
        }
    }
}

/// How many bytes of `pattern` fit the one byte `byte`.
fn fits_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().position(|byte| *byte == b']')?;
            in_set(&pattern[1..end], byte).then_some(end + 1)
        }
        letter => (fold(*letter) == fold(byte)).then_some(1),
    }
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    while let [first, rest @ ..] = set {
        match rest {
            [b'-', last, rest @ ..] => {
                if (*first..=*last).contains(&byte) {
                    return true;
                }
                set = rest;
            }
            _ if *first == byte => return true,
            _ => set = rest,
        }
    }
    false
}

fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_of_real_modules_fit_real_devices() {
        let cases = [
            ("pci:v00008086d0000100Esv*sd*bc*sc*i*", E1000, true),
            ("pci:v00008086d0000100Fsv*sd*bc*sc*i*", E1000, false),
            (
                "pci:v*d*sv*sd*bc01sc06i01*",
                "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
                true,
            ),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("scsi:t-0x00*", "scsi:t-0x00", true),
            ("scsi:t_0x00*", "scsi:t-0x00", true),
            ("acpi*:PNP0C0[9A]:*", "acpi:PNP0C0A:", true),
            ("acpi*:PNP0C0[0-8]:*", "acpi:PNP0C0A:", false),
        ];
        for (pattern, name, fit) in cases {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }

    const E1000: &str = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00";

    /// The same question, answered the slow and obvious way.
    fn obvious(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|taken| obvious(rest, &name[taken..])),
            _ => name
                .first()
                .and_then(|byte| fits_one(pattern, *byte))
                .is_some_and(|length| obvious(&pattern[length..], &name[1..])),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_answer(pattern in "[ab*?\\[\\]_-]{0,10}", name in "[ab_-]{0,10}") {
            prop_assert_eq!(fits(&pattern, &name), obvious(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn nothing_panics(pattern in ".{0,40}", name in ".{0,40}") {
            fits(&pattern, &name);
        }
    }
}
