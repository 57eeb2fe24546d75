"""AdemVLCollator: batches of every mixture, and errors that name the sample."""

from collections import Counter

import architectures
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from training_runs import picture_folder
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from adem_vl_hf.data.collator import AdemVLCollator
from adem_vl_hf.data.image_folder import ImageFolder
from adem_vl_hf.data.sample import Sample, Shown, opened
from adem_vl_hf.modeling import images
from adem_vl_hf.modeling.labels import NOT_SUPERVISED
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor

pytestmark = pytest.mark.core


class LetterProcessor:
    """Makes one token per letter and one for the end, with the interface and the errors of AdemVLProcessor."""

    def __call__(self, images, text, suffix, max_length, return_tensors):
        assert return_tensors == "pt"
        rows = []
        for i, (prompt, answer) in enumerate(zip(text, suffix, strict=True)):
            ids = [*map(ord, prompt + answer), 1]
            if max_length is not None and len(ids) > max_length:
                raise ValueError(f"sample {i}: {len(ids)} tokens are more than max_length {max_length}")
            before = len(ids) if "unsupervised" in answer else len(prompt)
            rows.append((torch.tensor(ids), torch.tensor([NOT_SUPERVISED] * before + ids[before:])))
        pad = torch.nn.utils.rnn.pad_sequence
        batch = {
            "input_ids": pad([ids for ids, _ in rows], batch_first=True),
            "labels": pad([labels for _, labels in rows], batch_first=True, padding_value=NOT_SUPERVISED),
        }
        batch["attention_mask"] = (batch["input_ids"] != 0).long()
        if images is not None:
            assert all(image is None or image.mode == "RGB" for image in images)
            batch["image_mask"] = torch.tensor([image is not None for image in images])
            values = [
                torch.zeros(3, 4, 4) if i is None else torch.tensor(np.array(i.resize((4, 4)))).permute(2, 0, 1)
                for i in images
            ]
            batch["pixel_values"] = torch.stack(values)
        return batch


def sample(name="s", image=None, prompt="Q:", answer=" yes", **further):
    return (
        Sample(id=name, image=image, prompt=prompt, answer=answer, references=[answer.strip()], kind="caption")
        | further
    )


def picture(mode="RGB", colour="red"):
    return Image.new(mode, (6, 5), colour)


KEYS = {"input_ids", "attention_mask", "labels"}


def test_mixed_batch():
    batch = AdemVLCollator(LetterProcessor())(
        [sample("a", picture()), sample("b", None, "Question:", " no", choices=["no"])]
    )
    assert set(batch) == KEYS | {"pixel_values", "image_mask"}  # Trainer passes every key to forward
    assert all(isinstance(value, torch.Tensor) for value in batch.values())
    assert batch["image_mask"].tolist() == [True, False]
    assert batch["pixel_values"].shape == (2, 3, 4, 4)
    texts = ["".join(map(chr, row[row > 1])) for row in batch["input_ids"]]
    answers = ["".join(map(chr, row[row > 1])) for row in batch["labels"]]
    assert (texts, answers) == (["Q: yes", "Question: no"], [" yes", " no"])


def test_text_only_batch():
    assert set(AdemVLCollator(LetterProcessor())([sample("a"), sample("b")])) == KEYS


def test_images_that_are_not_rgb_are_opened(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    stored = Image.new("RGB", (64, 64), "red")
    stored.paste("blue", (0, 0, 64, 32))
    stored.save(path, exif=exif, quality=95)
    images = [picture("L", 200), picture("RGBA", (0, 0, 0, 0)), picture("CMYK"), Image.open(path)]
    pixels = AdemVLCollator(LetterProcessor())([sample(str(i), image) for i, image in enumerate(images)])[
        "pixel_values"
    ]
    assert pixels[0].unique().tolist() == [200]
    assert pixels[1].unique().tolist() == [255]
    assert pixels[3, 0, 0, 0] > 200  # the red half is on top now


def test_unusable_images_name_the_sample(tmp_path):
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"^sample 'bad': .*a\.jpg: damaged or truncated"):
        AdemVLCollator(LetterProcessor())([sample("good", picture()), sample("bad", Image.open(path))])


@pytest.mark.parametrize("answer", ["", " \n"])
def test_empty_answers_name_the_sample(answer):
    with pytest.raises(ValueError, match=r"^sample 'bad': its answer is empty"):
        AdemVLCollator(LetterProcessor())([sample("good"), sample("bad", answer=answer)])


def test_unsupervised_answers_name_the_sample():
    with pytest.raises(ValueError, match=r"^sample 'bad': no token of its answer is supervised"):
        AdemVLCollator(LetterProcessor())([sample("good"), sample("bad", answer=" unsupervised")])


def test_too_long_samples_are_named():
    samples = [sample("good"), sample("bad", prompt="Q" * 30 + ":"), sample("also bad", prompt="Q" * 40 + ":")]
    assert len(AdemVLCollator(LetterProcessor(), 36)(samples[:2])["input_ids"]) == 2
    with pytest.raises(ValueError, match=r"^sample 'bad': 36 tokens are more than max_length 35"):
        AdemVLCollator(LetterProcessor(), 35)(samples)


def test_errors_that_are_no_samples_fault_stay_as_they_are():
    def processor(text, **_):
        if len(text) > 1:
            raise ValueError("these do not fit together")
        return {}

    with pytest.raises(ValueError, match=r"^these do not fit together$"):
        AdemVLCollator(processor)([sample("a"), sample("b")])

    def broken(**_):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match=r"^broken$"):
        AdemVLCollator(broken)([sample("a")])


def test_stripped_samples_name_the_training_argument():
    with pytest.raises(ValueError, match=r"no text to train on but the columns \[\].*remove_unused_columns=False"):
        AdemVLCollator(LetterProcessor())([{}])
    with pytest.raises(ValueError, match="no samples in the batch"):
        AdemVLCollator(LetterProcessor())([])


@pytest.fixture(scope="module")
def processor():
    """An AdemVLProcessor with a byte-level BPE tokenizer trained on a few words, for images of 8 x 8 pixels."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>", "<pad>", "<reserved>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["a picture of a red flag", "two dogs on the grass"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    size = {"height": 8, "width": 8}
    return AdemVLProcessor(CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False), tokenizer)


def test_mixed_batch_of_the_real_processor(processor):
    samples = [
        sample("a", picture(), "a picture of", " a red flag"),
        sample("b", None, "two", " dogs"),
        sample("c", picture("RGBA", (0, 0, 0, 0)), "a picture of", " grass"),
    ]
    batch = AdemVLCollator(processor, max_length=64)(samples)
    assert set(batch) == KEYS | {"pixel_values", "image_mask"}
    assert all(isinstance(value, torch.Tensor) for value in batch.values())
    assert batch["pixel_values"].shape == (3, 3, 8, 8)
    assert batch["image_mask"].tolist() == [True, False, True]
    texts = [
        processor.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert texts == [
        "<s>Image: <reserved>a picture of a red flag</s>",
        "<s>Image: N/Atwo dogs</s>",
        "<s>Image: <reserved>a picture of grass</s>",
    ]
    answers = [processor.decode(row[row != NOT_SUPERVISED]) for row in batch["labels"]]
    assert answers == [" a red flag</s>", " dogs</s>", " grass</s>"]
    assert set(AdemVLCollator(processor)(samples[1:2])) == KEYS


def test_errors_of_the_real_processor_name_the_sample(processor):
    samples = [sample("short", picture()), sample("long", picture(), "two dogs on the grass " * 20)]
    with pytest.raises(
        ValueError, match=r"^sample 'long': \d+ tokens of prompt and \d+ of answer exceed the window of 50"
    ):
        AdemVLCollator(processor, max_length=50)(samples)
    with pytest.raises(ValueError, match=r"^sample 'marked': 1 <image> marks for 0 images"):
        AdemVLCollator(processor)([sample("plain"), sample("marked", None, "<image> What?")])


class Recorder(LetterProcessor):
    """Records the arguments of its calls and ignores the images."""

    def __call__(self, images, text, suffix, max_length, return_tensors, **further):
        self.images, self.further = images, further
        return super().__call__(None, text, suffix, max_length, return_tensors)


def colours(pictures):
    return [picture.getpixel((0, 0)) for picture in pictures]


def handed_over(*samples):
    processor = Recorder()
    AdemVLCollator(processor)(samples)
    return processor


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_several_pictures_are_a_list_for_each_row():
    two = [picture(), picture(colour="blue")]
    called = handed_over(sample("a", images=two), sample("b", picture()), sample("c"))
    assert [colours(row) for row in called.images] == [[RED, BLUE], [RED], []]
    assert called.further == {}


def test_videos_are_lists_of_frames():
    clip = [picture(colour="blue"), picture(), picture()]
    called = handed_over(
        sample("a", video=clip), sample("b", picture()), sample("c", images=[picture()] * 2), sample("d")
    )
    assert [colours(row) for row in called.images] == [[], [RED], [RED, RED], []]
    assert set(called.further) == {"videos"}
    assert [row and colours(row) for row in called.further["videos"]] == [[BLUE, RED, RED], None, None, None]
    called = handed_over(sample("a", video=clip), sample("d"))
    assert called.images is None
    assert [row and colours(row) for row in called.further["videos"]] == [[BLUE, RED, RED], None]


def test_one_picture_a_sample_is_handed_over_as_ever():
    called = handed_over(sample("a", picture()), sample("b"))
    assert colours(called.images[:1]) == [RED]
    assert called.images[1] is None
    assert called.further == {}
    called = handed_over(sample("a"), sample("b"))
    assert (called.images, called.further) == (None, {})


def test_every_frame_is_opened_and_the_unusable_one_named(tmp_path):
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-500])
    called = handed_over(sample("a", video=[picture("RGBA", (0, 0, 0, 0)), picture("L", 9)]))
    assert colours(called.further["videos"][0]) == [(255, 255, 255), (9, 9, 9)]
    with pytest.raises(ValueError, match=r"^sample 'bad': video\[1\]: .*a\.jpg: damaged or truncated"):
        handed_over(sample("good", picture()), sample("bad", video=[picture(), Image.open(path)]))


def test_two_sorts_of_pictures_or_an_empty_list_name_the_sample():
    with pytest.raises(ValueError, match="^sample 'bad': both 'image' and 'video'; give one"):
        handed_over(sample("bad", picture(), video=[picture()]))
    with pytest.raises(ValueError, match="^sample 'bad': no images in 'images'; give some or leave the field out"):
        handed_over(sample("good"), sample("bad", images=[]))


def test_a_refused_batch_of_videos_names_the_sample():
    long = sample("long", prompt="Q" * 30, video=[picture()] * 2)
    with pytest.raises(ValueError, match="^sample 'long': 35 tokens are more than max_length 20"):
        AdemVLCollator(Recorder(), 20)([sample("short", images=[picture()] * 2), long])


def test_a_picture_is_opened_and_converted_once(bases, tmp_path, monkeypatch):
    """From the file to the pixels; converting it again would copy it."""
    picture_folder(tmp_path / "pictures", number=4)
    processor = architectures.ADEM_VL.processor(bases, tiny.build(bases))
    data, collator = ImageFolder(tmp_path / "pictures"), AdemVLCollator(processor)
    with_paths = [{"image": str(path), "text": "a cat"} for path in sorted((tmp_path / "pictures").glob("*.png"))]
    calls = Counter()
    for owner, name in ((Image, "open"), (images, "_to_rgb")):
        own = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, own=own, name=name: calls.update([name]) or own(*args))
    expected = collator([data[i] for i in range(4)])
    assert calls == {"open": 4, "_to_rgb": 4}
    assert torch.equal(collator(with_paths)["pixel_values"], expected["pixel_values"])  # as rows of a data set
    assert calls == {"open": 8, "_to_rgb": 8}


@pytest.mark.parametrize("turned", [False, True])
def test_a_picture_in_memory_is_turned_upright_by_its_metadata(turned):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = picture()
    photo.putpixel((0, 0), (0, 0, 255))
    if turned:
        photo.info["exif"] = exif.tobytes()
    found = opened(Shown("image", (photo,)), "s").images[0]
    assert found.size == ((5, 6) if turned else (6, 5))
    assert (found is photo) == (not turned)
