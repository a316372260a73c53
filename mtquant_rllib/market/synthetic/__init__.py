"""The embedded market: seeded synthetic bars and macro of the same shape as real ones, many histories as cheaply as
one.

    regime_chain   which of four regimes rules each bar
    innovations    correlated, fat-tailed shocks whose size clusters
    planted        the predictable part: a latent, its noisy proxy, and the filter that is the best anyone can do
    bars           prices and volume from all of these
    macro          VIX, dollar index and rates that fit the prices
    generate       the draw of whole histories

Three variants. `default` has regime drifts and a planted part. `planted` has the planted part alone, so that a known
oracle exists. `null` is a martingale: opens, closes and every stop between them are fair, whatever was seen before.
"""

from mtquant_rllib.market.synthetic.generate import PlantedTruth, SyntheticMarket, Variant, synthesise

__all__ = ["PlantedTruth", "SyntheticMarket", "Variant", "synthesise"]
