"""Test set -> one report: error rates, speaker similarity, predicted opinion scores."""
