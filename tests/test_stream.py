"""Streaming is exact: however codes or rows arrive, the samples are those of decoding all at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpa import hub
from gpa.errors import CheckpointError
from gpa.nets import source_filter as reference
from gpa.nets.bicodec import BiCodec as Net
from gpa.nets.export import PrenetGraph, RowsGraph, WaveGraph
from gpa.nets.fake import tiny_bicodec
from gpa.tokenizers.bicodec import MOST_PIECE, BiCodec
from gpa.tokenizers.excitation import Rows, SourceFilterSynthesis
from gpa.tokenizers.fit import Fit
from gpa.tokenizers.turns import Listener
from gpa.tokenizers.window import FIRST_SECONDS, receptive_field, stretches

RECIPE = Path(__file__).parents[1] / "recipes" / "nano" / "bicodec.yaml"
FLAVOURS = ("nano", "published")


@pytest.fixture(scope="module")
def codecs(nano_checkpoint: Path, published_checkpoint: Path) -> dict[str, BiCodec]:
    folders = {"nano": nano_checkpoint, "published": published_checkpoint}
    return {name: BiCodec(folder / "BiCodec", threads=1) for name, folder in folders.items()}


def codes_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 128, count)


def cut(count: int, sizes: Sequence[int]) -> list[slice]:
    """`count` items in pieces of the given sizes, taken round and round."""
    ends = itertools.accumulate(itertools.cycle([*sizes, 1]))  # the 1 makes an end
    edges = [0, *itertools.takewhile(lambda end: end < count, ends), count]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


sizes = st.lists(st.integers(0, 40), min_size=1, max_size=6)


# ---- rows -> samples ----


def rows_of(count: int, n_fft: int = 64, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    bins = n_fft // 2 + 1
    f0 = 150 * np.exp(0.5 * np.sin(np.arange(count) / 9) + 0.01 * draw.standard_normal(count))
    voiced = np.sin(np.arange(count) / 6) + 0.3
    filters = [draw.standard_normal((count, bins)) * 0.5 - 3, draw.uniform(-3, 3, (count, bins)), draw.standard_normal((count, bins)) - 5]
    return Rows(*(x.astype(np.float32) for x in (f0, voiced, *filters)))


def whole(rows: Rows, n_fft: int, hop: int, **options: Any) -> np.ndarray:
    synthesis = SourceFilterSynthesis(n_fft, hop, 16_000, **options)
    return np.concatenate([synthesis.push(rows), synthesis.flush()])


@pytest.mark.parametrize(("n_fft", "hop"), [(640, 160), (64, 16), (64, 32), (60, 10)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 50])
def test_synthesis_equals_torch(n_fft: int, hop: int, count: int) -> None:
    rows = rows_of(count, n_fft)
    ours = whole(rows, n_fft, hop, seed=3, start=0.25)
    torch_rows = reference.Rows(*(torch.from_numpy(x)[None] for x in rows))
    train = reference.pulses(torch_rows.f0, (torch_rows.voiced > 0).float(), hop, 16_000, torch.tensor([[0.25]]))
    frames = SourceFilterSynthesis(n_fft, hop, 16_000, seed=3)
    noise = np.stack([frames._noise(k) for k in range(count + 1)], -1)
    theirs = reference.render(torch_rows, train, torch.from_numpy(noise).float()[:, None], n_fft, hop)[0]
    assert ours.shape == (count * hop,)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=1e-4)


@given(count=st.integers(0, 60), sizes=sizes, geometry=st.sampled_from([(64, 16), (64, 32), (60, 10)]))
@settings(max_examples=60, deadline=None)
def test_synthesis_is_the_same_in_pieces(count: int, sizes: list[int], geometry: tuple[int, int]) -> None:
    rows = rows_of(count, geometry[0])
    synthesis = SourceFilterSynthesis(*geometry, 16_000, seed=1)
    pieces = [synthesis.push(rows.part(piece.start, piece.stop)) for piece in cut(count, sizes)]
    assert np.array_equal(np.concatenate([*pieces, synthesis.flush()]), whole(rows, *geometry, seed=1))


def test_long_synthesis_is_the_same_in_pieces() -> None:
    """Large arrays take other paths through numpy."""
    rows = rows_of(400, 640)
    synthesis = SourceFilterSynthesis(640, 160, 16_000)
    pieces = [synthesis.push(rows.part(piece.start, piece.stop)) for piece in cut(400, [3, 1, 250])]
    assert np.array_equal(np.concatenate([*pieces, synthesis.flush()]), whole(rows, 640, 160))


def test_samples_are_settled_after_the_lookahead() -> None:
    rows = rows_of(30)
    synthesis = SourceFilterSynthesis(64, 16, 16_000)
    given = len(synthesis.push(rows))
    assert given == (30 - synthesis.lookahead) * 16
    changed = rows._replace(f0=np.where(np.arange(30) < 20, rows.f0, 90).astype(np.float32))
    same = whole(rows, 64, 16) == whole(changed, 64, 16)
    assert same[: (20 - synthesis.lookahead) * 16].all()
    assert not same.all()


def test_noise_depends_on_seed_and_frame_alone() -> None:
    a, b = (SourceFilterSynthesis(64, 16, 16_000, seed=seed) for seed in (1, 2))
    assert np.array_equal(a._noise(5), SourceFilterSynthesis(64, 16, 16_000, seed=1)._noise(5))
    assert not np.array_equal(a._noise(5), a._noise(6))
    assert not np.array_equal(a._noise(5), b._noise(5))
    many = np.stack([a._noise(k) for k in range(500)])
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02
    assert abs(np.mean(many[1:] * many[:-1])) < 0.02


def test_pitch_is_that_of_the_rows() -> None:
    count = 100
    rows = rows_of(count, 640)
    flat = np.zeros((count, 321), np.float32)
    rows = Rows(np.full(count, 200, np.float32), np.ones(count, np.float32), flat, flat, flat - 20)
    spectrum = np.abs(np.fft.rfft(whole(rows, 640, 160)[1600:9600] * np.hanning(8000)))  # bins of 2 Hz
    assert spectrum[100] > 100 * spectrum[50:95].max()
    assert spectrum[100] > 100 * spectrum[105:195].max()


def test_windows_must_overlap_evenly() -> None:
    with pytest.raises(CheckpointError, match="no even multiple"):
        SourceFilterSynthesis(640, 200, 16_000)


# ---- codes -> samples ----

Decode = Callable[..., dict[str, np.ndarray]]
ALONE = {"ends": np.ones(2, np.int64), "past": np.zeros((1, 0), np.float32)}  # a piece that is the whole


def at_once(codec: BiCodec, codes: np.ndarray) -> np.ndarray:
    """All codes through the nets in one call each -> wav."""
    voice = np.arange(codec.token_num)[None]
    if not codec.parametric:
        frames = codec.prenet(codes=codes[None], voice=voice, **ALONE)["frames"]
        return codec.decoder(frames=frames, **ALONE)["wav"][0]
    return whole(codec.rows(codes[None], voice, (0, 0)), 640, 160)


def spoken_by(codec: BiCodec) -> str:
    """The net that is given codes."""
    return "decoder" if codec.parametric else "prenet"


def chunked(codec: BiCodec, examples: int) -> None:
    """`examples` random ways to cut codes of random number, against decoding them at once. A window is decoded once: a net is a
    pure function of it, and which windows it is asked for is what is tested."""
    voice, fit = range(codec.token_num), Fit(tuple(range(-6, 6)), 70) if codec.parametric else Fit()
    seen = dict[bytes, dict[str, np.ndarray]]()

    def once(net: Decode, **fed: np.ndarray) -> dict[str, np.ndarray]:
        key = b"".join(name.encode() + array.tobytes() for name, array in sorted(fed.items()))
        if key not in seen:
            seen[key] = net(**fed)
        return seen[key]

    @given(count=st.integers(0, 120), sizes=sizes)
    @settings(max_examples=examples, deadline=None)
    def law(count: int, sizes: list[int]) -> None:
        codes = codes_of(count)
        stream = codec.stream(voice, seed=5, fit=fit)
        pieces = [stream.push(codes[piece].tolist()) for piece in cut(count, sizes)]
        wav = np.concatenate([*pieces, stream.flush()])
        assert wav.dtype == np.float32
        assert wav.shape == (count * codec.samples_per_code,)
        assert np.array_equal(wav, codec.decode(codes.tolist(), voice, seed=5, fit=fit))

    with pytest.MonkeyPatch.context() as patch:
        for name in {"decoder", spoken_by(codec)}:
            patch.setitem(codec.__dict__, name, partial(once, getattr(codec, name)))
        law()


@pytest.fixture(scope="module")
def embedded() -> BiCodec:
    """The codec in the package."""
    return BiCodec(hub.embedded() / "BiCodec", threads=1)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_stream_equals_decode(codecs: dict[str, BiCodec], flavour: str) -> None:
    chunked(codecs[flavour], 40)


@pytest.mark.slow
@pytest.mark.parametrize("flavour", [*FLAVOURS, "embedded"])
def test_stream_equals_decode_a_thousand_times(codecs: dict[str, BiCodec], embedded: BiCodec, flavour: str) -> None:
    chunked(embedded if flavour == "embedded" else codecs[flavour], 1000)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("count", [1, 37, 150])
@torch.inference_mode()
def test_windows_change_no_sample_in_float64(codecs: dict[str, BiCodec], flavour: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding in windows against one pass over all codes, with a net in float64 whose every path is open."""
    codec, net = codecs[flavour], sharp(tiny_bicodec(flavour))
    digits = net.speaker_encoder.quantizer.digits_of
    monkeypatch.setattr(net.speaker_encoder.quantizer, "digits_of", lambda codes: digits(codes).double())

    def double(graph: torch.nn.Module, names: Sequence[str], **fed: np.ndarray) -> dict[str, np.ndarray]:
        out = graph(**{name: torch.from_numpy(x) for name, x in fed.items()})
        return {name: x.numpy() for name, x in zip(names, out, strict=True)}

    graphs = {"decoder": (RowsGraph(net), Rows._fields)} if codec.parametric else {}
    if not codec.parametric:
        graphs |= {"prenet": (PrenetGraph(net), ("frames", "kept")), "decoder": (WaveGraph(net), ("wav", "kept"))}
    for name, graph in graphs.items():
        monkeypatch.setitem(codec.__dict__, name, partial(double, *graph))
    codes = codes_of(count)
    expected, wav = (np.float32(x) for x in (at_once(codec, codes), codec.decode(codes, range(codec.token_num))))
    assert np.abs(wav - expected).max() < 1e-6 * np.abs(expected).max()
    loud = 0.9 / np.abs(expected).max()
    assert np.array_equal(np.rint(wav * loud * 32767), np.rint(expected * loud * 32767))


def test_rows_of_the_embedded_codec_do_not_alternate(embedded: BiCodec) -> None:
    """Every other row louder than its neighbours is heard as roughness: .46 neper on average, before rows were smoothed."""
    rows = embedded.rows(codes_of(120)[None], np.arange(embedded.token_num)[None], (0, 0))
    between = np.diff(rows.harmonic, axis=0) * np.where(np.arange(len(rows.f0) - 1) % 2, 1, -1)[:, None]
    assert abs(between.mean()) < 0.02  # neper


def test_windows_of_the_embedded_codec_change_less_than_a_unit_of_16_bits(embedded: BiCodec) -> None:
    codes, voice = codes_of(120), np.arange(embedded.token_num)
    expected = embedded.synthesis(0).whole(embedded.rows(codes[None], voice[None], (0, 0)))
    assert np.abs(embedded.decode(codes, voice) - expected).max() < 1 / 32768


def test_a_code_of_the_embedded_codec_is_heard_within_its_field(embedded: BiCodec) -> None:
    """By perturbation of the exported net: the other rows stay as they are."""
    codes, voice = codes_of(100), np.arange(embedded.token_num)
    other = codes.copy()
    other[50] = (other[50] + 64) % 128
    a, b = (embedded.decoder(codes=x[None], voice=voice[None], skip=np.zeros(2))["harmonic"][0] for x in (codes, other))
    rows = len(a) // 100
    heard = np.flatnonzero(np.abs(a - b).max(1) > 1e-5) // rows
    assert 50 - embedded.field.after <= heard.min()
    assert heard.max() <= 50 + embedded.field.before


def test_the_cost_of_a_second_is_constant_in_the_length(codecs: dict[str, BiCodec], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in codes that the net is given: a minute is no dearer a second than ten seconds, an hour than a minute."""
    codec = codecs["nano"]

    def decoded(seconds: int) -> float:
        given, sizes = 0, stretches(codec.frame_rate)
        before, left = 0, round(seconds * codec.frame_rate)
        while left > 0:
            size = min(next(sizes), left)
            given += before + size + min(codec.field.after, left - size)
            before, left = min(codec.field.before, before + size), left - size
        return given / seconds

    net, seen = codec.decoder, list[int]()
    monkeypatch.setitem(codec.__dict__, "decoder", lambda codes, **rest: seen.append(codes.shape[1]) or net(codes=codes, **rest))
    codec.decode(codes_of(round(10 * codec.frame_rate)), range(codec.token_num))
    assert sum(seen) == round(10 * decoded(10))
    assert decoded(60) <= decoded(10)
    assert decoded(3600) <= decoded(60) <= 1.2 * decoded(3600)


def test_later_seconds_of_an_utterance_cost_the_same(codecs: dict[str, BiCodec], monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that the net is given for a code, of the stretches that lie in 10 to 20 s against those in 50 to 60 s; only the
    short stretches at the beginning cost more."""
    codec = codecs["nano"]
    net, seen = codec.decoder, list[int]()
    monkeypatch.setitem(codec.__dict__, "decoder", lambda codes, **rest: seen.append(codes.shape[1]) or net(codes=codes, **rest))
    stream = codec.stream(range(codec.token_num))
    costs: list[tuple[float, float]] = []  # second, codes for a code
    codes = codes_of(round(60 * codec.frame_rate))
    done, step = 0, round(codec.frame_rate / 5)
    for start in range(0, len(codes), step):
        size = len(stream.push(codes[start : start + step])) / codec.samples_per_code
        if len(seen) > len(costs):
            costs.append((done / codec.frame_rate, seen[-1] / size))
            done += round(size)
    early, late = (np.mean([cost for second, cost in costs if a <= second < a + 10]) for a in (10, 50))
    assert early == pytest.approx(late, rel=0.1)
    assert costs[0][1] > late


@pytest.mark.parametrize("count", [1, 8, 31, 32, 33, 34, 500])
def test_a_wave_generator_is_given_every_code_once(codecs: dict[str, BiCodec], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And few at once; the first piece alone is longer, by what is looked ahead."""
    codec = codecs["published"]
    net, seen = codec.prenet, list[np.ndarray]()
    monkeypatch.setitem(codec.__dict__, "prenet", lambda codes, **rest: seen.append(codes[0]) or net(codes=codes, **rest))
    codes = codes_of(count)
    assert len(codec.decode(codes, range(codec.token_num))) == count * codec.samples_per_code
    assert np.array_equal(np.concatenate(seen), codes)
    assert max(map(len, seen)) <= MOST_PIECE * codec.frame_rate + codec.field.after


def test_a_wave_generator_is_never_given_many_frames(codecs: dict[str, BiCodec], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the end either, when all that was looked ahead comes at once."""
    codec = codecs["published"]
    net, seen = codec.decoder, list[int]()
    monkeypatch.setitem(codec.__dict__, "decoder", lambda frames, **rest: seen.append(frames.shape[1]) or net(frames=frames, **rest))
    codec.decode(codes_of(200), range(codec.token_num))
    assert sum(seen) == 200
    assert max(seen) <= MOST_PIECE * codec.frame_rate


utterances = st.lists(st.floats(0.1, 12.0), min_size=1, max_size=12)


@given(st.sampled_from([12.5, 25.0, 50.0]), st.floats(0.05, 1 / 1.5), utterances)
@example(50.0, 0.65625, [0.125, 1.0])  # less than a first stretch, which gives no more time than it lasts
def test_no_gap_while_speech_is_made_fast_enough(frame_rate: float, r: float, lengths: list[float]) -> None:
    """Chunk k + 1 is there when chunk k has been played, at any real-time factor up to 1 / GROWTH (0.67), in one utterance and
    from one to the next."""
    sizes: list[float] = []
    for length in lengths:
        left, following = round(length * frame_rate), stretches(frame_rate, given=sum(sizes), first=sizes[0] if sizes else FIRST_SECONDS)
        while left:
            size = min(left, next(following))
            sizes.append(size / frame_rate)
            left -= size
    made = r * np.cumsum(sizes)  # when each chunk is ready, but for a look-ahead that is the same for all
    over = made[0] + np.cumsum(sizes)  # when each has been played
    assert (made[1:] <= over[:-1] + 1 / frame_rate).all()  # sizes are whole codes


def test_later_utterances_are_decoded_in_fewer_pieces(codecs: dict[str, BiCodec], monkeypatch: pytest.MonkeyPatch) -> None:
    codec, listener = codecs["nano"], Listener()
    net, seen = codec.decoder, list[int]()
    monkeypatch.setitem(codec.__dict__, "decoder", lambda codes, **rest: seen.append(codes.shape[1]) or net(codes=codes, **rest))
    calls = []
    for _ in range(4):
        stream = codec.stream(range(codec.token_num), listener=listener)
        before = len(seen)
        wav = np.concatenate([*(stream.push([code]) for code in codes_of(75)), stream.flush()])
        assert len(wav) == 75 * codec.samples_per_code
        calls.append(len(seen) - before)
    assert calls == [6, 2, 1, 1]
    assert listener.given == pytest.approx(4 * 75 / codec.frame_rate)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_long_stream_code_by_code(codecs: dict[str, BiCodec], flavour: str) -> None:
    codec = codecs[flavour]
    codes = codes_of(300)
    stream = codec.stream(range(codec.token_num))
    wav = np.concatenate([*(stream.push([code]) for code in codes), stream.flush()])
    assert np.array_equal(wav, codec.decode(codes, range(codec.token_num)))


@pytest.mark.parametrize("flavour", FLAVOURS)
@torch.inference_mode()
def test_decode_equals_the_net_over_all_codes(codecs: dict[str, BiCodec], flavour: str) -> None:
    """Windows change nothing: the samples are those of one pass over everything."""
    codec, codes = codecs[flavour], codes_of(200)
    np.testing.assert_allclose(codec.decode(codes, range(codec.token_num)), at_once(codec, codes), atol=1e-4)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_speech_starts_early_and_windows_stay_bounded(codecs: dict[str, BiCodec], flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codecs[flavour]
    name, seen = spoken_by(codec), []
    net = getattr(codec, name)
    monkeypatch.setitem(codec.__dict__, name, lambda codes, **rest: seen.append(codes.shape[1]) or net(codes=codes, **rest))
    stream = codec.stream(range(codec.token_num))
    first = next(i for i, code in enumerate(codes_of(400), 1) if len(stream.push([code])))
    assert first <= 0.16 * codec.frame_rate + codec.field.after + 1
    stream.push(codes_of(2000))
    stream.flush()
    if codec.parametric:
        longest = 4 * codec.frame_rate + (codec.field.before + codec.field.after)
        assert max(seen[:-1]) == longest
        assert sum(seen) < (2400 + first) * longest / (4 * codec.frame_rate) * 1.5
    else:
        assert max(seen[1:-1]) == MOST_PIECE * codec.frame_rate
        assert sum(seen) == 2000 + first


def test_stretches_grow_to_four_seconds() -> None:
    sizes = list(itertools.islice(stretches(25.0), 12))
    assert sizes[:3] == [4, 6, 9]
    assert sizes[-1] == 100
    assert all(b <= 1.5 * a + 1 for a, b in itertools.pairwise(sizes))


def test_shorter_lookahead(codecs: dict[str, BiCodec]) -> None:
    """Earlier, of the same length, and not the same samples."""
    codec = codecs["nano"]
    codes, voice = codes_of(150), range(codec.token_num)
    whole = codec.decode(codes, voice)
    errors = []
    for lookahead in (0, codec.field.after):
        stream = codec.stream(voice, lookahead=lookahead)
        wav = np.concatenate([*(stream.push([code]) for code in codes), stream.flush()])
        assert wav.shape == whole.shape
        errors.append(float(np.abs(wav - whole).max()))
    assert errors[0] > errors[1] == 0


def test_a_wave_generator_waits_for_all_it_hears(codecs: dict[str, BiCodec]) -> None:
    codec = codecs["published"]
    with pytest.raises(CheckpointError, match=f"legal: lookahead {codec.field.after}"):
        codec.stream(range(codec.token_num), lookahead=3)
    for fit in (Fit(pitch=100), Fit(tone=(1, 2))):
        with pytest.raises(CheckpointError, match="legal: a voice without"):
            codec.stream(range(codec.token_num), fit=fit)


def test_voiced_frames_are_rendered_with_the_noise_that_the_config_asks_for(codecs: dict[str, BiCodec]) -> None:
    codec = codecs["nano"]
    asked = codes_of(40)[None], np.arange(codec.token_num)[None], (0, 0)
    rows = codec.rows(*asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_voiced_noise", 0.0)
        whole = codec.rows(*asked)
    assert set(rows.voiced > 0) == {True, False}
    lower = np.where(rows.voiced > 0, -3 * np.log(10) / 20, 0)[:, None]
    np.testing.assert_allclose(rows.noise - whole.noise, np.broadcast_to(lower, rows.noise.shape), atol=1e-5)
    np.testing.assert_array_equal(rows.harmonic, whole.harmonic)


def test_seed_and_pitch(codecs: dict[str, BiCodec]) -> None:
    codec = codecs["nano"]
    codes, voice = codes_of(40), range(4)
    wav = codec.decode(codes, voice, seed=1)
    assert np.array_equal(wav, codec.decode(codes, voice, seed=1))
    assert not np.array_equal(wav, codec.decode(codes, voice, seed=2))
    assert not np.array_equal(wav, codec.decode(codes, voice, seed=1, fit=Fit(pitch=300)))
    assert len(codec.decode(codes, voice, fit=Fit(pitch=-400))) == len(wav)


# ---- what a code's speech depends on ----


def sharp(config: dict[str, Any]) -> Net:
    """A net in float64 whose every path is open."""
    torch.manual_seed(0)
    net = Net(config).double().eval()
    for name, p in net.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.ones_(p)
    return net


def measured(config: dict[str, Any]) -> tuple[int, int]:
    """Codes before and after a code whose change is heard in it."""
    net, (left, right, *_) = sharp(config), receptive_field(config)
    middle, count = left + right + 2, 2 * (left + right + 2) + 1
    voice = torch.zeros(1, config["audio_tokenizer"]["speaker_encoder"]["token_num"], dtype=torch.long)
    codes = torch.from_numpy(codes_of(count))[None]
    latents = net.quantizer.decode(codes).detach().requires_grad_()
    d_vector = net.speaker_encoder.d_vector(net.speaker_encoder.quantizer.digits_of(voice).double())
    frames = net.frames(latents, d_vector)
    out = net.decoder(frames, d_vector).harmonic if isinstance(net.decoder, reference.SourceFilter) else net.decoder(frames.mT).mT
    per = out.shape[1] // count
    (out[0, middle * per : (middle + 1) * per].double() * torch.randn(out.shape[2], dtype=torch.double)).sum().backward()
    assert latents.grad is not None
    heard = latents.grad[0].abs().sum(1).nonzero()[:, 0]
    return middle - int(heard.min()), int(heard.max()) - middle


def shallow(config: dict[str, Any], **prenet: Any) -> dict[str, Any]:
    config["audio_tokenizer"]["prenet"].update(prenet)
    return config


@pytest.mark.parametrize(
    "config",
    [
        tiny_bicodec("nano"),
        tiny_bicodec("published"),
        shallow(tiny_bicodec("nano"), lookahead=None),
        shallow(tiny_bicodec("nano"), lookahead=0),
        shallow(tiny_bicodec("published"), vocos_num_layers=1),
    ],
    ids=["nano", "published", "nano-symmetric", "nano-causal", "published-shallow"],
)
def test_receptive_field_is_what_is_heard(config: dict[str, Any]) -> None:
    assert measured(config) == receptive_field(config)[:2]


def test_receptive_field_of_published_and_recipe() -> None:
    """Published: 67 frames of 20 ms either way, structural (12 blocks; 57 of them the prenet's)."""
    config = tiny_bicodec("published")
    assert receptive_field(shallow(config, vocos_num_layers=12))[:2] == (67, 67)
    assert receptive_field(shallow(config, vocos_num_layers=3))[:2] == (40, 40)
    assert receptive_field(yaml.safe_load(RECIPE.read_text())) == (33, 3, 14, 2, 2)
