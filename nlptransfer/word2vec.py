"""Register the classifier on word vectors with transformers, as model cards ask by ``import nlptransfer.word2vec``."""

from nlptransfer.routes import Word2VecForSequenceClassification as Word2VecForSequenceClassification
