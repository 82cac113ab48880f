//! Series of values that resemble those before them.

use rand::rngs::ChaCha8Rng;
use vb::rng;

/// A series of `n` values.
pub fn draw_values(n: usize, one: impl FnMut() -> f64) -> Vec<f64> {
    std::iter::repeat_with(one).take(n).collect()
}

/// An autoregressive series: each value is 0.95 of the one before it, and a normal number. On a logarithmic scale.
pub fn autoregressive(random: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    let mut last = rng::sample_normal(random);
    draw_values(n, || {
        last = 0.95 * last + (1.0_f64 - 0.95 * 0.95).sqrt() * rng::sample_normal(random);
        (0.5 * last).exp()
    })
}

/// Fractional Gaussian noise with H = 0.8 on a logarithmic scale, whose waves are as long as any run. Exact, by circulant embedding
/// (Davies and Harte).
pub fn fractional_noise(random: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    const EXPONENT: f64 = 1.6;
    let half = n.next_power_of_two();
    let power = |lag: f64| lag.abs().powf(EXPONENT);
    let covariance = |lag: usize| {
        let lag = lag.min(2 * half - lag) as f64;
        (0.5 * (power(lag - 1.0) - 2.0 * power(lag) + power(lag + 1.0)), 0.0)
    };
    let spectrum = transform(&(0..2 * half).map(covariance).collect::<Vec<_>>());
    let noise = |(power, _): &(f64, f64)| {
        let scale = (power.max(0.0) / (2 * half) as f64).sqrt();
        (scale * rng::sample_normal(random), scale * rng::sample_normal(random))
    };
    let noise: Vec<(f64, f64)> = spectrum.iter().map(noise).collect();
    transform(&noise).into_iter().take(n).map(|(real, _)| (0.5 * real).exp()).collect()
}

/// The discrete Fourier transform of a power of two of complex numbers.
fn transform(values: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if values.len() == 1 {
        return values.to_vec();
    }
    let part = |from: usize| transform(&values.iter().skip(from).step_by(2).copied().collect::<Vec<_>>());
    let (even, odd) = (part(0), part(1));
    let turned = |(i, (re, im)): (usize, &(f64, f64))| {
        let (sin, cos) = (-std::f64::consts::TAU * i as f64 / values.len() as f64).sin_cos();
        (re * cos - im * sin, re * sin + im * cos)
    };
    let odd: Vec<(f64, f64)> = odd.iter().enumerate().map(turned).collect();
    let sums = even.iter().zip(&odd).map(|(a, b)| (a.0 + b.0, a.1 + b.1));
    let differences = even.iter().zip(&odd).map(|(a, b)| (a.0 - b.0, a.1 - b.1));
    sums.chain(differences).collect()
}
