//! Medians and spreads of few samples.
//!
//! Invariant: an empty list has no median; everything else has one.

/// The value below which a share `q` (0 to 1) of the samples lies, between neighbours in proportion.
pub(crate) fn quantile(samples: &[f64], q: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (high - low) * at.fract())
}

/// The middle one.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    quantile(samples, 0.5)
}

/// Distance of the quartiles as a share of the median: how far to believe it. One sample does not say.
pub(crate) fn spread(samples: &[f64]) -> Option<f64> {
    let middle = median(samples).filter(|middle| *middle > 0.0 && samples.len() > 1)?;
    Some((quantile(samples, 0.75)? - quantile(samples, 0.25)?) / middle)
}

/// Distance of the extremes as a share of the median.
pub(crate) fn range(samples: &[f64]) -> Option<f64> {
    let middle = median(samples).filter(|middle| *middle > 0.0)?;
    Some((quantile(samples, 1.0)? - quantile(samples, 0.0)?) / middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(quantile(&[10.0, 0.0], 0.25), Some(2.5));
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]), Some(2.0 / 3.0));
        assert_eq!(range(&[1.0, 2.0, 3.0]), Some(1.0));
        assert_eq!((spread(&[0.0, 0.0]), spread(&[1.0])), (None, None));
    }
}
