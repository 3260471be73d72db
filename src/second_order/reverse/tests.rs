//! What the passes record, compute and hold on to, and the two bridges to candle.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{BatchNorm, ModuleT};

use super::super::tape::count::made;
use super::super::{Layer, Traced};
use crate::error::Result;
use crate::layers::Linear;
use crate::ops::count::counted;
use crate::random::Stream;

fn draw(name: &str, dims: &[usize]) -> Tensor {
    Stream::new(0, name, 0).normal(dims, DType::F64, &Device::Cpu).unwrap()
}

fn var(name: &str, dims: &[usize]) -> Var {
    Var::from_tensor(&draw(name, dims)).unwrap()
}

fn close(got: &Tensor, expected: &Tensor) {
    assert_eq!(got.dims(), expected.dims());
    let largest = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    let off = largest(&got.sub(expected).unwrap()) / largest(expected).max(1.0);
    assert!(off < 1e-11, "{off:e}: {got} for {expected}");
}

/// A bit of everything whose derivative is not its own gradient.
fn everything(x: &Traced, weight: &Var, bias: &Var) -> Result<Traced> {
    let h = x.linear(weight, Some(bias), "a layer")?.softplus()?.tanh()?;
    let norms = h.sqr()?.sum_keepdim(1)?.affine(1.0, 0.1)?.sqrt()?;
    let h = h.broadcast_div(&norms)?.exp()?.add(&h.leaky_relu(0.2)?)?.sqr()?.affine(1.0, 1.0)?;
    let turned = h.transpose(0, 1)?.narrow(1, 0, 2)?;
    h.powf(1.5)?.log()?.matmul(&turned)?.permute(&[1, 0])?.sigmoid()?.mean(1)
}

/// The pass to the parameters makes no node, at a score as at a penalty; the pass to the input does.
#[test]
fn the_first_order_pass_records_nothing() -> Result<()> {
    let (weight, bias) = (var("weight", &[3, 4]), var("bias", &[3]));
    let x = Traced::input(&draw("x", &[5, 4]));
    let score = everything(&x, &weight, &bias)?;
    let before = made();
    let gradients = score.clone().backward()?;
    assert_eq!(made(), before);
    assert!(gradients.get(&weight).is_some() && gradients.get(&bias).is_some());
    let gradient = score.differentiate(&x)?;
    assert!(made() > before);
    let penalty = gradient.sqr()?.sum_all()?;
    let before = made();
    let gradients = penalty.backward()?;
    assert_eq!(made(), before);
    assert!(gradients.get(&weight).is_some() && gradients.get(&bias).is_some());
    Ok(())
}

/// Products that nobody asked for are not computed.
#[test]
fn each_pass_goes_where_it_is_wanted() -> Result<()> {
    let (weight, fake) = (var("weight", &[3, 4]), var("fake", &[5, 4]));
    let products = |y: Traced| counted(|| y.sum_all()?.backward());
    let constant = draw("x", &[5, 4]);
    for (input, expected) in [
        (Traced::untracked(&constant), 1), // the weight
        (Traced::input(&constant), 1),
        (Traced::frozen(&constant), 0),
        (Traced::frozen(&fake), 1), // the samples
        (Traced::untracked(&fake), 2),
    ] {
        let (gradients, (_, count)) = products(input.linear(&weight, None, "a layer")?);
        assert_eq!(count, expected, "{input:?}");
        let gradients = gradients?;
        assert_eq!(gradients.get(&weight).is_some(), !input.is_frozen());
    }
    let x = Traced::input(&constant);
    let y = x.linear(&weight, None, "a layer")?;
    let (gradient, (_, count)) = counted(|| y.differentiate(&x));
    assert_eq!((gradient?.dims(), count), (&[5, 4][..], 1));
    Ok(())
}

#[test]
fn a_parameter_used_twice_has_the_sum() -> Result<()> {
    let weight = var("weight", &[4]);
    let x = Traced::untracked(&draw("x", &[4]));
    let shared = x.parameter(&weight);
    let y = x.mul(&shared)?.add(&shared.sqr()?)?.add(&x.parameter(&weight))?;
    let gradients = y.sum_all()?.backward()?;
    let expected = x.detach().add(&weight.affine(2.0, 1.0)?)?;
    close(gradients.get(&weight).unwrap(), &expected.detach());
    Ok(())
}

/// Where a leaf was computed by candle, from a variable that the tape knows as well.
#[test]
fn a_leaf_of_candles_hands_its_gradient_on() -> Result<()> {
    let weight = var("weight", &[4]);
    let (x, double) = (draw("x", &[4]), weight.affine(2.0, 0.0)?);
    let input = Traced::untracked(&x);
    let y = input.mul(&input.parameter(&weight.exp()?))?.mul(&input.parameter(&double))?;
    let y = y.add(&input.parameter(&weight))?;
    // (x e^w 2w + w)' = 2 x e^w (w + 1) + 1
    let expected = x.mul(&weight.exp()?)?.mul(&weight.affine(2.0, 2.0)?)?.affine(1.0, 1.0)?;
    let loss = y.sum_all()?;
    for gradients in [loss.value().backward()?, loss.backward()?] {
        close(gradients.get(&weight).unwrap(), &expected.detach());
    }
    Ok(())
}

/// A forward pass that leaves the tape for candle's operators and comes back keeps its gradients, in both kinds of pass; a
/// weight of a frozen pass stays a constant even so.
#[test]
fn a_value_that_went_through_candle_keeps_its_gradients() -> Result<()> {
    let (weight, latent) = (var("weight", &[4]), var("latent", &[4]));
    for frozen in [false, true] {
        let fake = latent.affine(3.0, 0.0)?;
        let x = if frozen { Traced::frozen(&fake) } else { Traced::untracked(&fake) };
        let h = x.mul(&x.parameter(&weight.exp()?))?;
        let back = x.parameter(&h.value().cos()?).mul(&h)?;
        let through = h.through_candle(|h| Ok(h.cos()?))?.mul(&h)?;
        for y in [back, through] {
            let gradients = y.sum_all()?.backward()?;
            // (h cos h)' = cos h - h sin h, for h = 3 z e^w
            let h = h.detach();
            let slope = h.cos()?.sub(&h.mul(&h.sin()?)?)?;
            let for_latent = slope.mul(&weight.exp()?)?.affine(3.0, 0.0)?;
            close(gradients.get(&latent).unwrap(), &for_latent.detach());
            match gradients.get(&weight) {
                Some(gradient) if !frozen => close(gradient, &slope.mul(&h)?),
                found => assert!(frozen && found.is_none()),
            }
        }
    }
    let error = Traced::input(&latent).through_candle(|x| Ok(x.cos()?)).unwrap_err();
    assert!(matches!(error, crate::Error::NotConnected { .. }), "{error}");
    Ok(())
}

/// This crate's batch normalisation, an operation of the tape, against candle-nn's, which candle differentiates.
#[test]
fn batch_normalisation_on_the_tape() -> Result<()> {
    use crate::layers::BatchNorm as Ours;
    let network = crate::ModelBuilder::new(0)
        .dtype(DType::F64)
        .critic(|vb| Ok(ByBatch(Ours::new(3, 1e-5.into(), vb)?)))?;
    let trained: Vec<Var> = network.parameters().trained().map(|(_, var)| var.clone()).collect();
    trained.iter().try_for_each(|var| var.set(&draw("values", &[3])))?;
    let running = Tensor::zeros(3, DType::F64, &Device::Cpu)?;
    let candles = BatchNorm::new(
        3,
        running.clone(),
        running.ones_like()?,
        trained[1].as_tensor().clone(),
        trained[0].as_tensor().clone(),
        1e-5,
    )?;
    let (first, x) = (var("first", &[3, 4]), var("x", &[6, 4]));
    for input in [Traced::untracked(&x), Traced::frozen(&x)] {
        let loss = |norm: &dyn Layer| -> Result<_> {
            let h = input.linear(&first, None, "a layer")?.tanh()?.apply(norm)?.tanh()?;
            h.apply(norm)?.sqr()?.powf(1.5)?.mean_all()
        };
        let (ours, expected) = (loss(&network.model().0)?, loss(&candles)?.backward()?);
        let (again, before) = (ours.clone(), made());
        for found in [again.value().backward()?, ours.backward()?] {
            for var in trained.iter().chain([&first, &x]) {
                match found.get(var) {
                    Some(gradient) => close(gradient, expected.get(var).unwrap()),
                    None => assert!(input.is_frozen() && var.id() != x.id()),
                }
            }
        }
        assert_eq!(made(), before);
    }
    Ok(())
}

struct ByBatch(crate::layers::BatchNorm);

impl crate::Critic for ByBatch {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        samples.apply(&self.0)
    }
}

/// Parameters before, in and after a batch normalisation of candle's, against candle alone.
#[test]
fn batch_normalisation_hands_every_gradient_on() -> Result<()> {
    let (first, last) = (var("first", &[3, 4]), var("last", &[3]));
    let (weight, bias) = (var("bn weight", &[3]), var("bn bias", &[3]));
    let running = Tensor::zeros(3, DType::F64, &Device::Cpu)?;
    let norm = BatchNorm::new(
        3,
        running.clone(),
        running.ones_like()?,
        weight.as_tensor().clone(),
        bias.as_tensor().clone(),
        1e-5,
    )?;
    let x = draw("x", &[6, 4]);
    let input = Traced::untracked(&x);
    let h = input.linear(&first, None, "a layer")?.tanh()?.apply(&norm)?.tanh()?.apply(&norm)?;
    let loss = h.tanh()?.broadcast_mul(&h.parameter(&last))?.mean_all()?;
    let h = x.matmul(&first.t()?)?.tanh()?;
    let h = norm.forward_t(&norm.forward_t(&h, true)?.tanh()?, true)?;
    let expected = h.tanh()?.broadcast_mul(&last)?.mean_all()?.backward()?;
    for gradients in [loss.value().backward()?, loss.backward()?] {
        for var in [&first, &weight, &bias, &last] {
            close(gradients.get(var).unwrap(), expected.get(var).unwrap());
        }
    }
    Ok(())
}

/// What is held by the pull-backs of later operations is free before those of earlier ones run; not while a clone is there.
#[test]
fn a_pass_frees_what_it_has_passed() -> Result<()> {
    let weight = var("weight", &[4]);
    for hold in [false, true] {
        let held = Arc::new(());
        let seen = Arc::new(Mutex::new(None));
        let x = Traced::untracked(&weight);
        let early = {
            let (held, seen) = (Arc::downgrade(&held), seen.clone());
            x.unary(x.raw().clone(), move |g| {
                *seen.lock().unwrap() = Some(held.strong_count());
                Ok(g.clone())
            })
        };
        let late = {
            let held = held.clone();
            early
                .unary(early.raw().clone(), move |g| g.affine(Arc::strong_count(&held) as f64, 0.0))
        };
        let loss = late.sum_all()?;
        drop((x, early, late));
        let clone = hold.then(|| loss.clone());
        let gradients = loss.backward()?;
        assert_eq!(gradients.get(&weight).unwrap().to_vec1::<f64>()?, [2.0; 4]);
        assert_eq!(*seen.lock().unwrap(), Some(1 + usize::from(hold)));
        drop(clone);
        assert_eq!(Arc::strong_count(&held), 1);
    }
    Ok(())
}

/// Operations whose gradient uses their own result must not hold themselves for ever.
#[test]
fn no_operation_holds_itself() -> Result<()> {
    let held = Arc::new(());
    {
        let x = Traced::input(&var("x", &[4]));
        let guard = held.clone();
        let x = x.unary(x.raw().clone(), move |g| g.affine(Arc::strong_count(&guard) as f64, 0.0));
        let y = x.exp()?.affine(1.0, 1.0)?.sqrt()?.tanh()?.sigmoid()?.elu(1.0)?;
        let gradient = y.differentiate(&x)?;
        assert!(gradient.value().track_op() && y.value().track_op());
        y.value().sum_all()?.backward()?;
    }
    assert_eq!(Arc::strong_count(&held), 1);
    Ok(())
}

/// Candle's backward pass over the same scores, twice and on many threads at once.
#[test]
fn a_value_can_be_differentiated_by_candle_as_often_as_one_likes() -> Result<()> {
    let (weight, bias) = (var("weight", &[3, 4]), var("bias", &[3]));
    let score = everything(&Traced::untracked(&draw("x", &[5, 4])), &weight, &bias)?;
    let of = |scale: f64| -> Result<Tensor> {
        let loss = score.value().sum_all()?.affine(scale, 0.0)?;
        Ok(loss.backward()?.remove(&weight).unwrap())
    };
    let one = of(1.0)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..5)
            .map(|i| {
                let (of, one) = (&of, &one);
                scope.spawn(move || {
                    for _ in 0..20 {
                        close(&of(f64::from(i)).unwrap(), &one.affine(f64::from(i), 0.0).unwrap());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    Ok(())
}

/// The tape is closed: a gradient of a gradient is one more pass; orders that no kernel has are refused.
#[test]
fn gradients_of_gradients() -> Result<()> {
    let values = draw("x", &[4]);
    let x = Traced::input(&values);
    let gradient = x.tanh()?.sum_all()?.differentiate(&x)?;
    let second = gradient.sum_all()?.differentiate(&x)?;
    let y = values.tanh()?;
    let expected = y.mul(&y.sqr()?.affine(-1.0, 1.0)?)?.affine(-2.0, 0.0)?;
    close(&second.detach(), &expected);
    let error = second.sum_all()?.differentiate(&x).unwrap_err();
    assert!(error.to_string().contains("derivative of order 3"), "{error}");
    // x^3: 6
    let x = Traced::input(&values);
    let cube = x.sqr()?.mul(&x)?.sum_all()?;
    let third =
        cube.differentiate(&x)?.sum_all()?.differentiate(&x)?.sum_all()?.differentiate(&x)?;
    close(&third.detach(), &values.zeros_like()?.affine(1.0, 6.0)?);
    Ok(())
}

/// A normalisation in broadcasts and sums, of rows of all positions, with a number for each channel.
fn composed(x: &Traced, weight: &Traced, bias: &Traced) -> Result<Traced> {
    let [batch, channels, positions] = [0, 1, 2].map(|d| x.dims()[d]);
    let rows = x.reshape((batch, channels * positions))?;
    let centred = rows.broadcast_sub(&rows.mean_keepdim(1)?)?;
    let deviation = centred.sqr()?.mean_keepdim(1)?.affine(1.0, 1e-5)?.sqrt()?;
    let y = centred.broadcast_div(&deviation)?.reshape((batch, channels, positions))?;
    let spread = (1, channels, 1);
    y.broadcast_mul(&weight.reshape(spread)?)?.broadcast_add(&bias.reshape(spread)?)
}

/// The written-out derivatives against those of the composition: a score's gradients, and a penalty's.
#[test]
fn normalisations_equal_their_composition_to_the_second_order() -> Result<()> {
    for dims in [[3, 4, 5], [2, 3, 1], [5, 1, 7]] {
        let (values, noise) = (var("x", &dims), draw("noise", &dims));
        let (weight, bias) = (var("weight", &dims[1..2]), var("bias", &dims[1..2]));
        let run = |fused: bool| -> Result<_> {
            let x = Traced::input(&values);
            let (w, b) = (x.parameter(&weight), x.parameter(&bias));
            let y = if fused {
                let y = x.standardise_rows(dims[1] * dims[2], 1e-5)?;
                y.scale_channels(&w, Some(&b), dims[2])?
            } else {
                composed(&x, &w, &b)?
            };
            let score = y.tanh()?.mul(&x.parameter(&noise))?.flatten_from(1)?.sum(1)?;
            let gradient = score.differentiate(&x)?;
            let lengths = if fused {
                gradient.squared_lengths()?
            } else {
                gradient.flatten_from(1)?.sqr()?.sum(1)?
            };
            Ok([score.sum_all()?.backward()?, lengths.sqr()?.sum_all()?.backward()?])
        };
        for (fused, composed) in run(true)?.into_iter().zip(run(false)?) {
            for var in [&values, &weight, &bias] {
                close(fused.get(var).unwrap(), composed.get(var).unwrap());
            }
        }
    }
    let x = Traced::input(&draw("x", &[3, 4]));
    let y = x.standardise_rows(4, 1e-5)?.sqr()?.mul(&x)?.sum_all()?;
    let error = y.differentiate(&x)?.sum_all()?.differentiate(&x).unwrap_err();
    assert!(error.to_string().contains("third derivative of a normalisation"), "{error}");
    Ok(())
}

/// A normalisation in candle code: its gradients come by way of the tape.
#[test]
fn normalisations_are_modules() -> Result<()> {
    use candle_core::Module;
    let network = crate::ModelBuilder::new(0)
        .dtype(DType::F64)
        .generator(|vb| Ok(Normalised(crate::layers::GroupNorm::per_sample(4, vb)?)))?;
    let x = var("x", &[3, 4, 5]);
    let (layer, parameters) = (&network.model().0, network.parameters());
    let trained: Vec<Var> = parameters.trained().map(|(_, var)| var.clone()).collect();
    trained.iter().try_for_each(|var| var.set(&draw("values", &[4])))?;
    let [bias, weight] = [0, 1].map(|i| Traced::untracked(&trained[i]));
    let expected = composed(&Traced::untracked(&x), &weight, &bias)?;
    let y = Module::forward(layer, &x)?;
    close(&y.detach(), &expected.detach());
    let found = y.sin()?.sum_all()?.backward()?;
    let expected = expected.value().sin()?.sum_all()?.backward()?;
    for var in trained.iter().chain([&x]) {
        close(found.get(var).unwrap(), expected.get(var).unwrap());
    }
    let plain = Traced::plain(&x).standardise_rows(4, 1e-5).unwrap_err();
    assert!(matches!(plain, crate::Error::NotConnected { .. }), "{plain}");
    Ok(())
}

struct Normalised(crate::layers::GroupNorm);

impl crate::Generator for Normalised {
    fn latent_dim(&self) -> usize {
        4
    }

    fn forward(&self, latent: &Tensor, _: bool) -> Result<Tensor> {
        Ok(candle_core::Module::forward(&self.0, latent)?)
    }
}

/// A layer as a candle module records nothing and stays in candle's graph.
#[test]
fn plain_layers_leave_the_tape_alone() -> Result<()> {
    use candle_core::Module;
    let network = crate::ModelBuilder::new(0).dtype(DType::F64).critic(|vb| {
        let layer = Linear::new(4, 3, vb)?;
        let x = var("x", &[5, 4]);
        let before = made();
        let y = Module::forward(&layer, &x)?;
        assert_eq!(made(), before);
        assert!(y.sum_all()?.backward()?.get(&x).is_some());
        Ok(ByLayer(layer))
    })?;
    assert_eq!(network.parameters().trained().count(), 2);
    Ok(())
}

struct ByLayer(Linear);

impl crate::Critic for ByLayer {
    fn forward(&self, samples: &Traced) -> Result<Traced> {
        Layer::forward(&self.0, samples)
    }
}
