//! Interleaved runs and their medians.

use anyhow::{Context, Result};

use super::say;

/// Somebody who is measured: a name, and a run that gives one number.
pub struct Contender<'a> {
    /// What the table calls it.
    pub name: &'static str,
    /// One run.
    pub run: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Contender<'a> {
    /// Somebody of this name.
    pub fn new(name: &'static str, run: impl FnMut() -> Result<f64> + 'a) -> Self {
        Contender { name, run: Box::new(run) }
    }
}

/// Runs all contenders in turns, `rounds` times over: what the machine does beside meets
/// everybody alike. Each one's median, in the order given.
pub fn interleave(rounds: usize, contenders: &mut [Contender<'_>]) -> Result<Vec<f64>> {
    let mut numbers = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 1..=rounds {
        for (contender, numbers) in contenders.iter_mut().zip(&mut numbers) {
            let name = contender.name;
            let number = (contender.run)().with_context(|| format!("measuring {name}"))?;
            say(&format!("  round {round} of {rounds}: {name} {number:.2}"));
            numbers.push(number);
        }
    }
    Ok(numbers.into_iter().map(median).collect())
}

/// The middle one; of an even count, the middle between the two.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn contenders_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let run = |letter: char| {
            order.borrow_mut().push(letter);
            Ok(f64::from(u32::from(letter)))
        };
        let mut contenders = [Contender::new("a", || run('a')), Contender::new("b", || run('b'))];
        assert_eq!(interleave(3, &mut contenders).unwrap(), [97.0, 98.0]);
        drop(contenders);
        assert_eq!(order.into_inner(), "ababab");
    }
}
