from jobkit.base import BaseWorker as BaseWorker
