"""Classifiers of one's own photos over a frozen network, for any number of classes and photos.

    classifier = mtl_jax.load('imagenet').adapt('beetles/')
    classifier.predict('new/')
"""
from mtl_jax.classifiers.classifier import Classifier, Prediction
from mtl_jax.classifiers.encoder import Encoder
from mtl_jax.classifiers.networks import Network, load, load_classifier
from mtl_jax.classifiers.report import Report

__all__ = ['Classifier', 'Encoder', 'Network', 'Prediction', 'Report', 'load', 'load_classifier']
